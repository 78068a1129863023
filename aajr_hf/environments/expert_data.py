"""Datasets of expert answers, generated from a seed: the same seed gives the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Observation, TextWorld, expert_row
from .commons import CommonsEnv
from .congestion import CongestionEnv
from .hide_and_seek import HideAndSeekEnv

WORLDS: dict[str, type[TextWorld]] = {
    "congestion": CongestionEnv,
    "commons": CommonsEnv,
    "hide_and_seek": HideAndSeekEnv,
}
# Far from any seed that counts up from 0.
_HELD_OUT = 2 * 10**6


def expert_rows(world: str, examples: int, *, seed: int, agents: int = 10) -> list[dict[str, Any]]:
    """
    Expert answers in a world, one row per observation.

    Args:
        world: One of [`WORLDS`].
        examples: Number of rows.
        seed: Seed of the generator; different seeds give independent rows.
        agents: Number of agents in the world; their rows of one moment follow each other.

    Returns:
        Rows with `prompt` and `completion` (lists of messages), `actions` (the answers that differ in the word that can
        endanger the system) and `action_costs` (their system costs).
    """
    if examples < 1:
        raise ValueError(f"`examples` must be at least 1, got {examples}.")
    rng = np.random.default_rng(seed)
    observations: list[Observation] = []
    while len(observations) < examples:
        observations += WORLDS[world].sample(rng, agents)
    return [expert_row(observation) for observation in observations[:examples]]


def held_out_rows(world: str, examples: int, *, seed: int) -> list[dict[str, Any]]:
    """
    Rows of as many different moments, of seeds that [`expert_rows`] is not given (texts can coincide by chance, as
    `tests/environments/test_worlds.py` measures: one in fifty at most): what ten agents see at one moment is
    alike, and would count as fewer observations than it is. The first agent's each time, in `hide_and_seek` a hider's.
    """
    return expert_rows(world, 10 * examples, seed=_HELD_OUT + seed)[::10]
