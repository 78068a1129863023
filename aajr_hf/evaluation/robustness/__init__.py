"""The worst case of an agent on the observations of a world, and whether to trust it."""
