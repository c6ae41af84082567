"""`ofer reconstruct`: pictures in; meshes, coefficients and a sheet of every face out."""
