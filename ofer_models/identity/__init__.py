"""Which head shape a tracked face has: drawn on its best views, kept, reviewed, and given back when it returns.

The states and their transitions: docs/identity.md.
"""
