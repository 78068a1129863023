"""Screen an agent with cheap attacks: success and seconds with and without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from ...training.policy.policy import frozen_parameters
from ..attacks.alignment import aligned
from ..attacks.ascent import Ascent
from ..attacks.lessons import LOSS
from ..attacks.predicted import Agreement, Features, GradientPredictor, agreement, features_of, mean_agreement
from ..attacks.search import Search
from ..attacks.target import Target
from ..attacks.without_gradients import RandomPoints

STEPS = 10
Attacks = dict[str, Callable[[Search], None]]


@dataclass
class Screened:
    """
    Result of one attack on its own.

    Attributes:
        outcomes: For each example, 1 if the answer is right without attack and withstands it, else 0.
        seconds: Time of the attack on all examples.
    """

    outcomes: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def success(self) -> float:
        """The success that the attack leaves, in percent."""
        return 100 * sum(self.outcomes) / len(self.outcomes)


def fit_predictor(targets: Iterable[Target]) -> GradientPredictor:
    """
    Fit a predictor to the gradients of an agent on some rows.

    Raises:
        ValueError: for fewer than two rows.
    """
    features, gradients, masks = [], [], []
    for target in targets:
        features.append(features_of(target, LOSS))
        gradients.append(_gradient(target))
        masks.append(target.batch.perturbable)
    length = max(int(mask.sum(dim=1).max()) for mask in masks)
    known = [aligned(gradient, mask, length) for gradient, mask in zip(gradients, masks, strict=True)]
    return GradientPredictor.fit(Features.joined(features), torch.cat(known))


def agreement_on(predictor: GradientPredictor, targets: Iterable[Target]) -> Agreement:
    """Compare predicted gradients with the true ones on other rows."""
    return mean_agreement(
        [agreement(predictor.on(target, LOSS), _gradient(target), target.batch.perturbable) for target in targets]
    )


def screen(
    targets: Iterable[Target],
    predictor: GradientPredictor,
    *,
    gradients: bool,
    seed: int = 0,
    multiple: float = 1.0,
    attacks: Attacks | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Screened]:
    """
    Run each attack on its own on all rows, within one radius.

    Args:
        targets: The rows, in batches.
        predictor: Predictor of the attack `predicted`.
        gradients: Whether attacks may compute gradients of the agent. If not, only forward passes are made.
        seed: Seed of the random points.
        multiple: Radius, as a multiple of epsilon.
        attacks: Further attacks by name.
        clock: Function that returns seconds.

    Returns:
        By attack: `none`; `random` (four points of the boundary); `predicted` (a step along the predicted gradient);
        with gradients, `one step` along the true gradient and `PGA`, an ascent of 10 steps.
    """
    tried: Attacks = {"none": _unperturbed, "random": RandomPoints(), "predicted": lambda s: _predicted(s, predictor)}
    if gradients:
        tried |= {"one step": _one_step, "PGA": Ascent("PGA", LOSS)}
    tried |= attacks or {}
    found = {name: Screened() for name in tried}
    number = 0
    for target in targets:
        seeds = [seed * 10**6 + number + row for row in range(len(target.batch))]
        number += len(target.batch)
        right = target.outcome(target.origin).greedy.bool()
        for name, attack in tried.items():
            search = Search(target, target.ball(multiple), seeds, steps=STEPS)
            began = clock()
            with frozen_parameters(target.model):
                attack(search)
            outcomes = (right & ~search.broken).float().tolist()  # on an accelerator, this waits for the result
            found[name].seconds += clock() - began
            found[name].outcomes += outcomes
    return found


def _unperturbed(search: Search) -> None:
    search.visit(search.target.origin, search.all_rows)


def _predicted(search: Search, predictor: GradientPredictor) -> None:
    search.visit(search.to_corner(predictor.on(search.target, LOSS)), search.all_rows)


def _one_step(search: Search) -> None:
    _, gradient = search.climb(search.target.origin, search.all_rows, LOSS)
    search.visit(search.to_corner(gradient), search.all_rows)


def _gradient(target: Target) -> torch.Tensor:
    search = Search(target, target.ball(1.0), [0] * len(target.batch), steps=1)
    with frozen_parameters(target.model):
        return search.climb(target.origin, search.all_rows, LOSS)[1]
