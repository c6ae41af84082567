"""How fast it is, against a plain implementation of the paper, and what fewer sampling steps cost."""
