"""What attacks have found of a batch within one radius, and the evaluations by which they find it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...objective import PerturbationSet
from ...training.data.batch import AgentBatch
from ...training.policy.policy import fixed_seed
from .losses import LOSSES
from .target import Target, outcome


class Search:
    """
    Examples under attack. Attacks evaluate perturbations of some examples (`rows`, indices (n,)) through [`Search.climb`] and
    [`Search.visit`]; each of them counts.

    Args:
        target: B examples.
        ball: The perturbations that are allowed, with epsilon (B,).
        steps, restarts: Of each ascent, and how many ascents with other starts an attack makes.
        seeds: One number per example, from which its random numbers follow, whatever else is in the batch.
        handed: Perturbations (B, L, d) that were found on other models, scaled to this ball.
        keep: Loss of [`LOSSES`] whose largest value says which point is kept.
        settled: Below this probability of the right answer, an ascent on a broken example goes no further.

    Attributes:
        broken: (B,) bool, whether greedy decoding gave a wrong answer at a visited point.
        sampled: (B,), the least probability of the right answer at a visited point; 1 where there is none.
        cost: (B,), the greatest expected system cost at a visited point; 0 where there is none.
        delta, kept: (B, L, d) and (B,), the visited point at which the loss `keep` is largest, and its value.
        gradients: How many gradients of single examples this took.
    """

    def __init__(
        self,
        target: Target,
        ball: PerturbationSet,
        seeds: list[int],
        *,
        steps: int,
        restarts: int = 1,
        keep: str = "margin",
        settled: float = 0.01,
        handed: tuple[Tensor, ...] = (),
    ):
        self.target, self.ball, self.seeds = target, ball, seeds
        self.steps, self.restarts, self.keep, self.settled, self.handed = steps, restarts, keep, settled, handed
        size, new = len(target.batch), target.origin.new_full
        self.broken = torch.zeros(size, dtype=torch.bool, device=target.origin.device)
        self.sampled, self.cost, self.kept = new((size,), 1.0), new((size,), 0.0), new((size,), float("-inf"))
        self.delta = torch.zeros_like(target.origin)
        self.gradients = 0

    def select(self, rows: Tensor) -> Search:
        """A search that begins anew, on some of the examples."""
        handed = tuple(delta[rows] for delta in self.handed)
        return self._anew(
            self.target.select(rows), self.ball_of(rows), [self.seeds[row] for row in rows.tolist()], handed
        )

    def _anew(
        self, target: Target, ball: PerturbationSet, seeds: list[int], handed: tuple[Tensor, ...] = ()
    ) -> Search:
        how = {"steps": self.steps, "restarts": self.restarts, "keep": self.keep, "settled": self.settled}
        return Search(target, ball, seeds, handed=handed, **how)

    def widened(self, ball: PerturbationSet) -> Search:
        """The search within a larger ball: what is broken stays broken, and what was found is tried at the new boundary, too."""
        wider, scaled = (self._anew(self.target, ball, self.seeds) for _ in range(2))
        wider.add(self, self.all_rows)
        wider.gradients = 0
        scaled.visit(wider.to_boundary(self.delta), self.all_rows)
        wider.add(scaled, self.all_rows)
        return wider

    def add(self, found: Search, rows: Tensor) -> None:
        """What a search on these examples has found; the perturbation that broke an example stays."""
        self.gradients += found.gradients
        better = (found.kept > self.kept[rows]) & ~self.broken[rows]
        self.delta[rows[better]] = found.delta[better]
        self.kept[rows[better]] = found.kept[better]
        self.sampled[rows] = torch.minimum(self.sampled[rows], found.sampled)
        self.cost[rows] = torch.maximum(self.cost[rows], found.cost)
        self.broken[rows] |= found.broken

    @property
    def all_rows(self) -> Tensor:
        return torch.arange(len(self.broken), device=self.broken.device)

    def ball_of(self, rows: Tensor) -> PerturbationSet:
        return PerturbationSet(self.ball.epsilon[rows], self.ball.norm, self.ball.scope)

    def project(self, delta: Tensor, rows: Tensor) -> Tensor:
        """The nearest perturbations (n, L, d) that are allowed."""
        return self.ball_of(rows).project(delta, self.target.batch.perturbable[rows])

    def to_boundary(self, delta: Tensor) -> Tensor:
        """Perturbations of all examples, lengthened until they leave the ball, and projected back onto it."""
        lengths = delta.flatten(1).norm(dim=1)
        far = torch.maximum(self.ball.extent(delta, self.target.batch.perturbable) * self.ball.epsilon, lengths)
        # Divided first: one factor for what is zero would be infinite.
        unit = delta / lengths.clamp_min(torch.finfo(delta.dtype).tiny)[:, None, None]
        return self.project(unit * far[:, None, None], self.all_rows)

    def random_points(self, number: int) -> Tensor:
        """Random points inside the ball, (B, L, d): of each example the one of this number."""
        target, points = self.target, torch.zeros_like(self.target.origin)
        for row, seed in enumerate(self.seeds):
            one = torch.tensor([row], device=self.broken.device)
            # Not of the padding, which depends on the rest of the batch: what is drawn after it would, too.
            own = slice(None, int(target.batch.attention_mask[row].sum()))
            with fixed_seed(self.broken.device, (seed << 16) + number):
                drawn = self.ball_of(one).sample(target.origin[one, own], target.batch.perturbable[one, own])
            points[row, own] = drawn[0]
        return points

    def climb(self, delta: Tensor, rows: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """The loss (n,) of [`LOSSES`] at perturbations (n, L, d) of some examples, and its gradient (n, L, d)."""
        policy = self.target.policy.select(rows)
        with torch.enable_grad():
            delta = delta.detach().requires_grad_(True)
            logits = policy(delta)
            values = LOSSES[loss](logits, policy.batch)
            (gradient,) = torch.autograd.grad(values.sum(), delta)
        self.gradients += len(rows)
        self._record(delta.detach(), rows, logits.detach(), policy.batch)
        return values.detach(), gradient * policy.batch.perturbable[..., None]

    @torch.no_grad()
    def visit(self, delta: Tensor, rows: Tensor) -> None:
        """Evaluate perturbations (n, L, d) of some examples, without a gradient."""
        policy = self.target.policy.select(rows)
        self._record(delta, rows, policy(delta), policy.batch)

    def unsettled(self) -> Tensor:
        """Which examples an ascent can still make worse, (B,) bool."""
        return ~self.broken | (self.sampled >= self.settled)

    def _record(self, delta: Tensor, rows: Tensor, logits: Tensor, batch: AgentBatch) -> None:
        found, values = outcome(logits, batch), LOSSES[self.keep](logits, batch)
        self.broken[rows] |= found.greedy == 0
        self.sampled[rows] = torch.minimum(self.sampled[rows], found.sampled)
        self.cost[rows] = torch.maximum(self.cost[rows], found.cost)
        better = values > self.kept[rows]
        self.kept[rows[better]] = values[better]
        self.delta[rows[better]] = delta[better]
