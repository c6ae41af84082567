"""The ROS 2 nodes, one module each, and their parameters."""
