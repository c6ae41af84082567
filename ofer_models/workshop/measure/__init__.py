"""Measuring a bundle: against known truth, and against the clock."""
