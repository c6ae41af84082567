"""`ofer build`: graphs compiled for TensorRT, and encoders in 8-bit integers."""
