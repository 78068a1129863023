"""Results of whole episodes: one line of `aajr simulate` for each."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Said(TypedDict):
    """
    An observation and the answer to it.

    Attributes:
        side: `model` or `opponent`.
        sees: The observation.
        says: The answer.
        expert: The answer of the world's expert.
        moved: Length of the perturbation of the prompt's embeddings, in multiples of their mean norm, under attack.
        unchanged: The observation as the world gave it, if an attack has changed its words.
    """

    side: str
    sees: str
    says: str
    expert: str
    moved: NotRequired[float]
    unchanged: NotRequired[str]


class Side(TypedDict):
    """
    Numbers of a player's answers: all, the malformed ones, and those equal to the expert's.

    Attributes:
        answers: Number of answers.
        malformed: Number of answers that cannot be parsed.
        expert: Number of answers that equal the expert's.
    """

    answers: int
    malformed: int
    expert: int


class EpisodeNumbers(TypedDict):
    """
    The record of an episode by `play`, which describes each field.

    Attributes:
        seed: Seed of the episode.
        steps: Number of steps that were played.
        metrics: The world's metrics, by name.
        sides: `model` and, if one plays, `opponent`.
        rewards: By agent, the sum of its rewards.
        transcript: What each agent saw and said, at each step.
    """

    seed: int
    steps: int
    metrics: dict[str, float]
    sides: dict[str, Side]
    rewards: dict[str, float]
    transcript: NotRequired[list[dict[str, Said]]]


class EpisodeSettings(TypedDict):
    """
    The settings of the episodes and, if there are any, the text of the system prompt and the settings of the attack.

    Attributes:
        kind: `episodes`.
        world: The world.
        model: The player of the agents.
        opponent: The player of the other side; None if the model plays all.
        system_prompt: The text before every observation.
        agents: Number of agents.
        shock: Kind of shock; None without one.
        magnitude: Strength of the shock; None without one.
        temperature: 0 for greedy answers.
        attack: Name of the attack; None without one.
        share_cache: True if agents read the caches of their peers.
        guard: Folder of the guard of these caches, if there is one.
        dtype: Type of the weights, if one was asked for.
        triggers: File of the triggers of the attack `trigger`.
        token_trials: Number of texts that the attack `token` tries for each observation.
        attack_steps, attack_restarts: Steps and random starts of the attack.
        epsilon, epsilon_mode, perturbation_norm, perturbation_scope, perturbed_tokens: The attack's ball, as in
            `ThreatModelFields`.
    """

    kind: Literal["episodes"]
    world: str
    model: str
    opponent: str | None
    system_prompt: NotRequired[str]
    agents: int
    shock: str | None
    magnitude: int | None
    temperature: float
    attack: str | None
    share_cache: NotRequired[bool]
    guard: NotRequired[str]
    dtype: NotRequired[str]
    triggers: NotRequired[str]
    token_trials: NotRequired[int]
    attack_steps: NotRequired[int]
    attack_restarts: NotRequired[int]
    epsilon: NotRequired[float]
    epsilon_mode: NotRequired[str]
    perturbation_norm: NotRequired[str]
    perturbation_scope: NotRequired[str]
    perturbed_tokens: NotRequired[str]


class EpisodeResults(EpisodeSettings, EpisodeNumbers):
    """A line of `episodes.jsonl`."""
