"""Attacks along directions that were learnt on other examples: `universal` and `predicted`."""

from __future__ import annotations

from dataclasses import dataclass

from .search import Search


@dataclass(frozen=True)
class Learnt:
    """
    Try the point of the ball that lies farthest in a direction learnt on other examples. Without such a direction, try
    nothing.

    Attributes:
        name: Name of the attack, and of its directions in `Search.learnt`.
    """

    name: str
    from_others = False
    # One point costs little, and the report says which of all examples it breaks.
    every_example = True

    def __call__(self, search: Search) -> None:
        if self.name in search.learnt:
            search.visit(search.to_corner(search.learnt[self.name]), search.all_rows)
