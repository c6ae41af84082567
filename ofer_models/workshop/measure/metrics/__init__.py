"""Errors of meshes, landmarks and hypotheses against their truth."""
