"""OFER's answers, the regressor's and a plain fit to MediaPipe's points on the same faces, clean and covered."""
