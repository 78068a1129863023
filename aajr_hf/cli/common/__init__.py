"""Errors, progress bars, and functions that all measuring commands share."""
