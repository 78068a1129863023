"""Errors, progress bars, and what all commands that measure share."""
