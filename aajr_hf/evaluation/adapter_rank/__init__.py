"""Measure which rank an adapter needs."""
