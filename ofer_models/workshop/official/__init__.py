"""`ofer import`: the released OFER checkpoints and FLAME, read without running code from them."""
