"""Training pictures of the open head with exact ground truth. Needs numba."""
