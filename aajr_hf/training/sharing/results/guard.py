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
        bound: What no decoder exceeds on guarded caches, if the rest of the message does not say the word.
        raw: A new decoder, trained on caches without a guard.
        fresh: A new decoder, trained on guarded caches.
        larger: A new decoder that is larger, trained on guarded caches.
    """

    word: str
    links: Literal["one", "all"]
    chance: float
    bound: float
    raw: float
    fresh: float
    larger: float


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
        beta: Weight of the divergence between messages that differ in private words, against the readers' loss.
        bottleneck: Width of a token's code.
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
    bottleneck: int
    widths: list[list[int]]
    steps: int
    decoder_steps: int
    batch_size: int
    examples: int
    seed: int
