"""Whole episodes of a world: played, under shock and attack, filmed."""
