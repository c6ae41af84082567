"""Meshes, landmarks and labels drawn onto pictures with OpenCV alone."""
