"""The `aajr` command: thin, one module per sub-command."""
