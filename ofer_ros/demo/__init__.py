"""Whole runs in several processes: `make demo` and `make view`."""
