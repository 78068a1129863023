"""Running attacks one after the other, on one model or several, within one radius after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...objective import PerturbationSet
from .search import Search
from .suite import Attack
from .target import Target


@dataclass
class Tally:
    """
    What one attack has done within one radius, in examples: how many it attacked, broke, and left together with those before it; and
    how many it leaves alone, where it attacked all.
    """

    attacked: int = 0
    broken: int = 0
    left: int = 0
    alone: int | None = None


# By attack and multiple of epsilon.
Tallies = dict[str, dict[str, Tally]]


@dataclass
class UnderAttack:
    """
    One model under attack on one batch.

    Args:
        target: The model on the batch.
        new_search: From the target and a ball to the search within it.
        tallies: Added to; None for a model that is there for the others only.
        exhaustive: Whether every attack sees every example, broken or not.
    """

    target: Target
    new_search: Callable[[Target, PerturbationSet], Search]
    tallies: Tallies | None = None
    exhaustive: bool = False
    search: Search | None = None
    _alone: dict[str, Tensor] = field(default_factory=dict)

    def widen(self, multiple: float) -> None:
        """Go on to a larger radius."""
        ball = self.target.ball(multiple)
        self.search = self.new_search(self.target, ball) if self.search is None else self.search.widened(ball)

    def run(self, attack: Attack, multiple: str) -> None:
        """Run an attack on the examples that are not broken yet, or on all where that is asked for."""
        search = self.search
        every = self.exhaustive or attack.every_example
        rows = search.all_rows if every else (~search.broken).nonzero().flatten()
        open_before = int((~search.broken).sum())
        if len(rows):
            found = search.select(rows)
            attack(found)
            search.add(found, rows)
        if self.tallies is None:
            return
        tally = self.tallies.setdefault(attack.name, {}).setdefault(multiple, Tally())
        left = int((~search.broken).sum())
        tally.attacked += open_before
        tally.broken += open_before - left
        tally.left += left
        if self.exhaustive:
            broken = self._alone.get(attack.name, torch.zeros_like(search.broken)) | found.broken
            self._alone[attack.name] = broken
            tally.alone = (tally.alone or 0) + int((~broken).sum())


def attack_within(models: dict[str, UnderAttack], attacks: Iterable[Attack], multiple: str) -> None:
    """
    Attack several models on the same examples within one radius: first with the attacks that need no other model, then with those
    that start from what was found on others. What is handed over counts in each model's own unit of epsilon.
    """
    attacks = list(attacks)
    for model in models.values():
        for attack in attacks:
            if not attack.from_others:
                model.run(attack, multiple)
    found = {name: _in_units(model) for name, model in models.items()}
    for name, model in models.items():
        if model.tallies is None:
            continue
        unit = _unit(model.target)
        model.search.handed = tuple(
            model.search.project(delta * unit, model.search.all_rows)
            for other, delta in found.items()
            if other != name
        )
        for attack in attacks:
            if attack.from_others and model.search.handed:
                model.run(attack, multiple)


def _in_units(model: UnderAttack) -> Tensor:
    return model.search.to_boundary(model.search.delta) / _unit(model.target)


def _unit(target: Target) -> Tensor:
    return target.threat.unit(target.scale)[:, None, None]
