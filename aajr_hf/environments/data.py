"""Datasets of expert answers, generated from a seed: the same seed gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .congestion import MAX_TAKE, Observation, draw_observations


def congestion_rows(examples: int, *, seed: int, agents: int = 10) -> list[dict[str, Any]]:
    """
    Expert answers in the world `congestion`, one row per observation.

    Args:
        examples: Number of rows.
        seed: Seed of the generator; different seeds give independent rows.
        agents: Number of agents in the world.

    Returns:
        Rows with `prompt` and `completion` (lists of messages), `actions` (answers that differ in what is taken, from 0
        to 9 units) and `action_costs` (their system costs).
    """
    if examples < 1:
        raise ValueError(f"`examples` must be at least 1, got {examples}.")
    rng = np.random.default_rng(seed)
    observations: list[Observation] = []
    while len(observations) < examples:
        observations += draw_observations(rng, agents)
    return [_row(observation) for observation in observations[:examples]]


def _row(observation: Observation) -> dict[str, Any]:
    expert = observation.expert()
    takes = range(MAX_TAKE + 1)
    return {
        "prompt": [{"role": "user", "content": observation.text()}],
        "completion": [{"role": "assistant", "content": expert.text()}],
        "actions": [replace(expert, take=take).text() for take in takes],
        "action_costs": [observation.cost(take) for take in takes],
    }
