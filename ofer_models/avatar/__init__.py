"""Faces as avatars are driven by them: ARKit weights, head and eye rotations, and the formats that rigs speak."""
