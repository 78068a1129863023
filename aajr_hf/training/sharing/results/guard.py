"""Types of the results of `aajr guard`."""

from __future__ import annotations

from typing import Literal, TypedDict


class Leak(TypedDict):
    """
    How often decoders name one private word of held-out senders, in percent.

    Attributes:
        word: The private word.
        links: What a decoder sees: the cache on `one` link, or those on `all` links of the sender.
        chance: The most frequent value of these senders: what a guess names without any cache.
        raw: A new decoder, trained on caches without a guard.
        fresh: A new decoder of the size of the guard's own, trained on guarded caches.
        adaptive: A new decoder that is larger, trained on guarded caches.
    """

    word: str
    links: Literal["one", "all"]
    chance: float
    raw: float
    fresh: float
    adaptive: float


class GuardNumbers(TypedDict):
    """
    What a guard takes and what it costs.

    Attributes:
        raw_success: Share of the held-out answers that are right with raw caches, in percent; the same as with text.
        guarded_success: The same with guarded caches.
        leakage: The private words.
    """

    raw_success: float
    guarded_success: float
    leakage: list[Leak]


class GuardResults(GuardNumbers):
    """
    The settings of a guard and its numbers.

    Attributes:
        kind: `guard`.
        world: The world.
        model: Folder or name of the model that writes and reads the caches.
        agents: Number of agents.
        private: The private words.
        beta: Weight of what the decoder knows against the readers' loss.
        links: What the guard's own decoder saw in training: `one` link, or `all` links of a sender.
        bottleneck: Width of the guard.
        widths: Width of keys and of values in each layer of the caches.
        steps: Steps of the guard, and of the decoder of raw caches.
        decoder_steps: Steps of each decoder of guarded caches.
        batch_size: Messages in a step.
        examples: Number of held-out senders.
        seed: Seed of the messages and of the first weights.
    """

    kind: Literal["guard"]
    world: str
    model: str
    agents: int
    private: list[str]
    beta: float
    links: Literal["one", "all"]
    bottleneck: int
    widths: list[list[int]]
    steps: int
    decoder_steps: int
    batch_size: int
    examples: int
    seed: int
