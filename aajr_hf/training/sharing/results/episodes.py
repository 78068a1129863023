"""Results of whole episodes: a line of `aajr simulate`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Said(TypedDict):
    sees: str
    says: str


class Side(TypedDict):
    """How many answers a player gave, and how many of them were malformed and how many the expert's."""

    answers: int
    malformed: int
    expert: int


class EpisodeNumbers(TypedDict):
    """What `play` records of an episode, and says of each field."""

    seed: int
    steps: int
    metrics: dict[str, float]
    sides: dict[str, Side]
    rewards: dict[str, float]
    transcript: NotRequired[list[dict[str, Said]]]


class EpisodeSettings(TypedDict):
    """What was asked for; how the attack was made, where there is one."""

    kind: Literal["episodes"]
    world: str
    model: str
    opponent: str | None
    agents: int
    shock: str | None
    magnitude: int | None
    temperature: float
    attack: str | None
    attack_steps: NotRequired[int]
    attack_restarts: NotRequired[int]
    epsilon: NotRequired[float]
    epsilon_mode: NotRequired[str]
    perturbation_norm: NotRequired[str]
    perturbation_scope: NotRequired[str]
    perturbed_tokens: NotRequired[str]


class EpisodeResults(EpisodeSettings, EpisodeNumbers):
    """A line of `episodes.jsonl`."""
