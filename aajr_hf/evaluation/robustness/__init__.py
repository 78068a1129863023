"""Worst-case success of agents on the observations of a world, and checks of whether to trust it."""
