"""How fast it is beside a plain implementation of the paper, and what fewer sampling steps cost."""
