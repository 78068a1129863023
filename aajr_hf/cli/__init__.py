"""The `aajr` command."""
