"""
What attacks learn about an agent on other examples than they are tried on. Rows with even numbers are attacked with what
was learnt on rows with odd numbers, and the other way round (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ...objective import projected_gradient_ascent
from .alignment import aligned
from .energy import energy_by_rank
from .losses import LOSSES
from .predicted import Agreement, Features, GradientPredictor, agreement, features_of, mean_agreement
from .target import Target
from .universal import STEPS, learn_universal

UNIVERSAL, PREDICTED = "universal", "predicted"
LOSS = "warm_nll"
# So many examples of each half are learnt from, as long as their ascents have fewer numbers than the limit.
_EXAMPLES, _LIMIT = 64, 2**27
_ASCENT_STEPS = 3


class Lessons:
    """
    Learn about an agent from rows of both halves.

    Args:
        target_of: Function that returns the attack target of the rows with these numbers.
        examples: Number of rows of the evaluation.
        batch_size: Rows in a target.
        multiples: Radii, as multiples of epsilon, for each of which `universal` is learnt.

    Attributes:
        energy: Percent of the energy of one half's ascent directions in the first r principal directions of the other
            half, by r; empty for a single row.
        dimensions: Number of dimensions of a direction.
        agreement: How well gradients of one half are predicted from the other; None with fewer than three rows.
        examples: Number of rows that were learnt from.
        gradients: Number of gradients that were computed, counted per example.
    """

    def __init__(
        self, target_of: Callable[[list[int]], Target], examples: int, batch_size: int, multiples: Iterable[float]
    ):
        multiples = tuple(multiples)
        halves = [_Half(list(_targets(target_of, range(half, examples, 2), batch_size))) for half in (0, 1)]
        length = max(half.length for half in halves)
        self._learnt = [half.learn(length, multiples) for half in halves]
        self.examples = sum(half.examples for half in halves)
        self.gradients = self.examples * (_ASCENT_STEPS + len(multiples) * (STEPS + 1))
        one, other = (half.directions(length) for half in halves)
        self.dimensions = one.shape[1]
        self.energy = energy_by_rank(one, other) if len(other) else {}
        found = [
            agreement(predictor.on(target, LOSS), gradient, target.batch.perturbable)
            for half, (_, predictor) in zip(halves, reversed(self._learnt), strict=True)
            for target, gradient in zip(half.targets, half.gradients, strict=True)
            if predictor is not None
        ]
        self.agreement: Agreement | None = mean_agreement(found) if found else None

    def on(self, target: Target, numbers: list[int], multiple: float) -> dict[str, Tensor]:
        """
        Return for each attack the directions (B, L, d) on the rows with these numbers, for this radius. They are zero
        where the other half has too few rows to learn from: none for `universal`, one for `predicted`.
        """
        found = {name: torch.zeros_like(target.origin) for name in (UNIVERSAL, PREDICTED)}
        for half, (universal, predictor) in enumerate(reversed(self._learnt)):
            rows = [row for row, number in enumerate(numbers) if number % 2 == half]
            if not rows:
                continue
            rows = torch.tensor(rows, device=target.origin.device)
            some = target.select(rows)
            if universal:
                found[UNIVERSAL][rows] = universal[multiple].on(some)
            if predictor is not None:
                found[PREDICTED][rows] = predictor.on(some, LOSS)
        return found


class _Half:
    """The rows of one half, and the ascents from them: 3 steps, as in training."""

    def __init__(self, targets: list[Target]):
        self.targets = targets
        self.examples = sum(len(target.batch) for target in targets)
        self.length = max((int(target.batch.perturbable.sum(dim=1).max()) for target in targets), default=0)
        ascents = [_ascent(target) for target in targets]
        self.gradients = [gradients[0] for gradients in ascents]
        self._ascents = ascents

    def directions(self, length: int) -> Tensor:
        """Return the directions of all steps, aligned and with norm 1, (steps * rows, length * d)."""
        found = [
            torch.nn.functional.normalize(aligned(of_step, target.batch.perturbable, length).flatten(1), dim=1)
            for target, ascent in zip(self.targets, self._ascents, strict=True)
            for of_step in ascent
        ]
        return torch.cat(found) if found else torch.zeros(0, 0)

    def learn(self, length: int, multiples: tuple[float, ...]):
        """Return the universal perturbations by radius, none without rows; and the predictor, None without two rows."""
        learnt_for = multiples if self.examples else ()
        universal = {multiple: learn_universal(self.targets, LOSS, multiple=multiple) for multiple in learnt_for}
        if self.examples < 2:
            return universal, None
        gradients = [
            aligned(gradient, target.batch.perturbable, length)
            for target, gradient in zip(self.targets, self.gradients, strict=True)
        ]
        return universal, GradientPredictor.fit(Features.joined(self._features()), torch.cat(gradients))

    def _features(self) -> list[Features]:
        return [features_of(target, LOSS) for target in self.targets]


def _targets(target_of: Callable[[list[int]], Target], numbers: range, batch_size: int) -> Iterator[Target]:
    """Yield the targets to learn from, as many as there is memory for."""
    numbers, size, held = list(numbers)[:_EXAMPLES], batch_size, 0
    for start in range(0, len(numbers), size):
        target = target_of(numbers[start : start + size])
        held += _ASCENT_STEPS * target.origin.numel()
        if held > _LIMIT and start:
            return
        yield target


def _ascent(target: Target) -> Tensor:
    """Return the gradients at the first points of an ascent from the unperturbed prompts, (steps, B, L, d)."""
    ball, mask = target.ball(1.0), target.batch.perturbable
    return projected_gradient_ascent(
        lambda delta: LOSSES[LOSS](target.policy(delta), target.batch),
        target.origin,
        ball,
        steps=_ASCENT_STEPS,
        step_size=2.5 * ball.epsilon * ball.extent(target.origin, mask) / _ASCENT_STEPS,
        mask=mask,
        final_loss=False,
    ).gradients()
