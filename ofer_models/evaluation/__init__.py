"""Measuring reconstructions against known truth."""
