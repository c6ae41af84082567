"""A long rough time for ofer_node, seen from outside: `make soak`, or python -m tools.soak --seconds 600."""
