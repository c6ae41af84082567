"""What makes a stream of single frames: noise that drifts, steady choices, filters, and a plan for heavy load."""
