"""Attacks: the threat model, losses, ways to search, and the list of them all (`suite.py`)."""
