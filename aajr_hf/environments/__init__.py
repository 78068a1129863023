"""Multi-agent worlds with the PettingZoo parallel API, their text and their expert data."""

from .base import TextWorld
from .commons import CommonsEnv
from .congestion import CongestionEnv
from .expert_data import WORLDS, expert_rows, held_out_rows
from .hide_and_seek import HideAndSeekEnv

__all__ = ["WORLDS", "CommonsEnv", "CongestionEnv", "HideAndSeekEnv", "TextWorld", "expert_rows", "held_out_rows"]
