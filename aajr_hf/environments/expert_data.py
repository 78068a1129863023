"""Datasets of expert answers, generated from a seed: the same seed always gives the same data."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Observation, TextWorld, expert_row
from .commons import CommonsEnv
from .congestion import CongestionEnv
from .hide_and_seek import HideAndSeekEnv
from .messages import with_messages

WORLDS: dict[str, type[TextWorld]] = {
    "congestion": CongestionEnv,
    "commons": CommonsEnv,
    "hide_and_seek": HideAndSeekEnv,
}
# An offset that keeps held-out seeds apart from training seeds, which count up from 0.
_HELD_OUT = 2 * 10**6


def expert_rows(
    world: str, examples: int, *, seed: int, agents: int = 10, variants: int = 0, messages: bool = False
) -> list[dict[str, Any]]:
    """
    Generate expert answers in a world, one row per observation.

    Args:
        world: One of [`WORLDS`].
        examples: Number of rows.
        seed: Seed of the generator; different seeds give independent rows.
        agents: Number of agents in the world; the rows of all agents at one moment are adjacent.
        variants: If above 0, rows have a column `variants`: so many texts that could stand in place of the observation without
            changing what is right ([`TextWorld.variant`]); none if the world has none.
        messages: Whether each agent reads a message of the agent before it, with the words that this agent alone knows, in
            place of what it reads of its peers. The rows then have a column `message`.

    Returns:
        Rows with `prompt` and `completion` (lists of messages), `actions` (the answers that differ in the word that can
        endanger the system) and `action_costs` (their system costs).

    Raises:
        ValueError: for `examples` below 1, or if the world has no such messages.
    """
    if examples < 1:
        raise ValueError(f"`examples` must be at least 1; got {examples}.")
    rng = np.random.default_rng(seed)
    observations: list[Observation] = []
    while len(observations) < examples:
        observations += WORLDS[world].sample(rng, agents)
    observations = observations[:examples]
    rows = [expert_row(observation) for observation in observations]
    if variants:
        drawn = np.random.default_rng([seed, 1])  # which does not change the observations
        for row, observation in zip(rows, observations, strict=True):
            found = (WORLDS[world].variant(drawn, observation) for _ in range(variants))
            row["variants"] = [variant.text() for variant in found if variant is not None]
    if messages:
        moments = (rows[start : start + agents] for start in range(0, len(rows), agents))
        rows = [row for moment in moments for row in with_messages(WORLDS[world], moment)]
    return rows


def held_out_rows(
    world: str, examples: int, *, seed: int, agents: int = 10, variants: int = 0, messages: bool = False
) -> list[dict[str, Any]]:
    """
    Generate held-out rows, each from a different moment, with seeds that are not used for training data. Texts can
    still coincide by chance (at most one in fifty, see `tests/environments/test_worlds.py`). The rows of all agents at
    one moment are similar, so only the first agent's row is taken; in `hide_and_seek`, that agent is a hider.
    """
    how = {"agents": agents, "variants": variants, "messages": messages}
    return expert_rows(world, agents * examples, seed=_HELD_OUT + seed, **how)[::agents]
