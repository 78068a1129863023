"""Which rank an adapter needs."""
