"""Key-value caches that agents share, and a guard that takes private words out of them (after LCGuard, arXiv 2605.22786)."""
