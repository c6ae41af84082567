"""ROS 2 around `ofer_models`: nodes, messages, markers, demo. Everything that needs rclpy lives here."""

import os

# Matrices here are small: numpy's BLAS would spread them over every core and spin there for the next one, which took
# a quarter of the frame rate from a machine of two cores. Before numpy is imported; what the user has set stays.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
