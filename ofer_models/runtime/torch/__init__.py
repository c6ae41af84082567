"""Stages on torch: the reference for other runtimes, and a way onto GPUs that they do not know."""
