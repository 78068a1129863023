"""
What agents read that share key-value caches. A peer, who has read its own words, tells an agent what the agent would
otherwise read of its peers as text. The cache of that message holds the peer's own words, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .base import TextWorld, expert_row


def own_words(world: type[TextWorld], agents: int = 10) -> list[str]:
    """
    Return the words of an observation that name a value which the agent alone knows.

    Raises:
        ValueError: if in this world no words of an observation come from peers.
    """
    text = world.sample(np.random.default_rng(0), agents)[0].text()
    return _split(world, text)[1].split()[::2]


def message_row(world: type[TextWorld], sender: dict[str, Any], reader: dict[str, Any]) -> dict[str, Any]:
    """
    Return the reader's row as it is with a message of the sender: in its prompt, the sender's own words come first. What
    is right stays the same.

    Args:
        world: Class of the world.
        sender, reader: Rows of two agents at the same moment, from `expert_row`.

    Returns:
        The row, with the column `message`: the part of the prompt that the sender writes and the reader does not read as
        text. The rest are the reader's own words.

    Raises:
        ValueError: as [`own_words`].
    """
    (told, own), (_, private) = (_split(world, row["prompt"][-1]["content"]) for row in (reader, sender))
    message = f"{private} {told}"
    prompt = [*reader["prompt"][:-1], reader["prompt"][-1] | {"content": f"{message} {own}"}]
    return reader | {"prompt": prompt, "message": message}


def with_values(row: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """
    Return a row from [`message_row`] in which own words of the sender have other values. The rest of the message and what is
    right stay the same.
    """
    words = row["message"].split()
    for word, value in values.items():
        words[words.index(word) + 1] = value
    message, said = " ".join(words), row["prompt"][-1]
    content = message + said["content"].removeprefix(row["message"])
    return row | {"prompt": [*row["prompt"][:-1], said | {"content": content}], "message": message}


def with_messages(world: type[TextWorld], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the rows of all agents at one moment, each with a message of the agent before it; the first agent hears from
    the last.

    Raises:
        ValueError: as [`own_words`].
    """
    return [message_row(world, rows[i - 1], row) for i, row in enumerate(rows)]


def sent_rows(
    world: type[TextWorld], rng: np.random.Generator, agents: int, *, all_links: bool
) -> Iterator[list[dict[str, Any]]]:
    """
    Sample moments without end.

    Args:
        all_links: Whether each agent sends a message to every other one; otherwise, to the next one only.

    Yields:
        For each sender of a moment, the rows of those who read its messages ([`message_row`]).

    Raises:
        ValueError: as [`own_words`].
    """
    while True:
        rows = [expert_row(observation) for observation in world.sample(rng, agents)]
        for i, sender in enumerate(rows):
            readers = rows[i + 1 :] + rows[:i]
            yield [message_row(world, sender, reader) for reader in (readers if all_links else readers[:1])]


def _split(world: type[TextWorld], text: str) -> tuple[str, str]:
    """Split an observation into what comes from peers or is known to all, and what the agent alone knows."""
    if world.own_from is None:
        name = str(world.metadata["name"]).rpartition("_v")[0]
        raise ValueError(f"In {name}, no words of an observation come from peers: give an agent of another world.")
    at = text.rindex(f" {world.own_from} ")
    return text[:at], text[at + 1 :]
