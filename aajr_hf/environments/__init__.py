"""Multi-agent worlds with the PettingZoo parallel API, their text and their expert data."""

from .congestion import Answer, CongestionEnv, Observation
from .data import congestion_rows

__all__ = ["Answer", "CongestionEnv", "Observation", "congestion_rows"]
