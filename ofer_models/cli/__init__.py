"""The `ofer` command: one module a command."""
