"""Run attacks one after the other, on one or several models, with increasing radii."""

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
    Result of one attack within one radius, in numbers of examples.

    Attributes:
        attacked: Examples that no earlier attack had broken.
        broken: Examples of these that this attack broke.
        left: Examples that remain unbroken after this attack and all earlier ones.
        alone: Examples that this attack alone leaves unbroken; None unless every attack sees all examples.
    """

    attacked: int = 0
    broken: int = 0
    left: int = 0
    alone: int | None = None


# Maps the name of an attack and the multiple of epsilon to the tally.
Tallies = dict[str, dict[str, Tally]]


def include(tallies: Tallies, others: Tallies) -> None:
    """Add tallies of other examples."""
    for name, by_multiple in others.items():
        for multiple, other in by_multiple.items():
            tally = tallies.setdefault(name, {}).setdefault(multiple, Tally())
            tally.attacked += other.attacked
            tally.broken += other.broken
            tally.left += other.left
            if other.alone is not None:
                tally.alone = (tally.alone or 0) + other.alone


@dataclass
class UnderAttack:
    """
    One model under attack on one batch.

    Args:
        target: The model on the batch.
        new_search: Function of the target and a ball that returns the search within the ball.
        tallies: Tallies to add the results to; None for a model that only provides perturbations for the others.
        exhaustive: Whether every attack sees every example, broken or not.

    Attributes:
        broken_by: For each attack that sees every example, which ones it broke within this or a smaller radius, (B,).
    """

    target: Target
    new_search: Callable[[Target, PerturbationSet], Search]
    tallies: Tallies | None = None
    exhaustive: bool = False
    search: Search | None = None
    broken_by: dict[str, Tensor] = field(default_factory=dict)

    def widen(self, multiple: float) -> None:
        """Continue with a larger radius."""
        ball = self.target.ball(multiple)
        self.search = self.new_search(self.target, ball) if self.search is None else self.search.widened(ball)

    def run(self, attack: Attack, multiple: str) -> None:
        """Run an attack on the unbroken examples, or on all if `exhaustive` or the attack itself asks for it."""
        search = self.search
        every = self.exhaustive or attack.every_example
        rows = search.all_rows if every else (~search.broken).nonzero().flatten()
        open_before = int((~search.broken).sum())
        if len(rows):
            found = search.select(rows)
            attack(found)
            search.add(found, rows)
        if every:
            before = self.broken_by.get(attack.name, torch.zeros_like(search.broken))
            self.broken_by[attack.name] = before | found.broken
        if self.tallies is None:
            return
        tally = self.tallies.setdefault(attack.name, {}).setdefault(multiple, Tally())
        left = int((~search.broken).sum())
        tally.attacked += open_before
        tally.broken += open_before - left
        tally.left += left
        if self.exhaustive:
            tally.alone = (tally.alone or 0) + int((~self.broken_by[attack.name]).sum())


def attack_within(models: dict[str, UnderAttack], attacks: Iterable[Attack], multiple: str) -> None:
    """
    Attack several models on the same examples within one radius: first with the attacks that need no other model, then
    with the attacks that use perturbations found on other models. Perturbations are scaled to the unit of epsilon of
    the model that receives them.
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
