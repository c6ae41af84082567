"""Training pictures of the open head with exact ground truth. Build-time only: needs numba."""
