"""A long rough time for ofer_node, seen from outside: `make soak`, or python -m ofer_ros.soak --seconds 600."""
