"""From camera frames to tracked faces: detection, landmarks, crops, tracking, head pose."""
