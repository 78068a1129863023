"""Results of the attacks on a batch within one radius, and the evaluations that the attacks make."""

from __future__ import annotations

import torch
from torch import Tensor

from ...objective import PerturbationSet
from ...training.data.batch import AgentBatch
from ...training.policy.policy import fixed_seed
from .losses import LOSSES
from .target import Target, outcome

# So much farther than the ball's own size a direction is followed before it is projected onto the ball.
_FAR = 1e4


class Search:
    """
    Examples under attack within one ball. Attacks evaluate perturbations of some examples (`rows`, indices (n,))
    through [`Search.climb`] and [`Search.visit`]. Every evaluated point counts for the results.

    Args:
        target: The B examples under attack.
        ball: The allowed perturbations, with epsilon (B,).
        seeds: One seed per example, so that its random numbers do not depend on the rest of the batch.
        steps: Steps of each ascent.
        restarts: Number of ascents that an attack makes, each from another start.
        keep: Name of a loss of [`LOSSES`]. The visited point with the largest value is kept.
        settled: Probability of the correct answer below which an ascent on a broken example stops.
        handed: Perturbations (B, L, d) found on other models, scaled to this ball.
        learnt: Directions (B, L, d) learnt on other examples, by name of the attack that tries them.

    Attributes:
        broken: (B,) bool, whether greedy decoding gave a wrong answer at a visited point.
        sampled: (B,), the lowest probability of the correct answer at a visited point; 1 if no point was visited.
        cost: (B,), the highest expected system cost at a visited point; 0 if no point was visited.
        delta, kept: (B, L, d) and (B,), the visited point with the largest value of the loss `keep`, and this value.
        gradients: Number of gradients computed, counted per example.
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
        learnt: dict[str, Tensor] | None = None,
    ):
        self.learnt = learnt or {}
        self.target, self.ball, self.seeds = target, ball, seeds
        self.steps, self.restarts, self.keep, self.settled, self.handed = steps, restarts, keep, settled, handed
        size, new = len(target.batch), target.origin.new_full
        self.broken = torch.zeros(size, dtype=torch.bool, device=target.origin.device)
        self.sampled, self.cost, self.kept = new((size,), 1.0), new((size,), 0.0), new((size,), float("-inf"))
        self.delta = torch.zeros_like(target.origin)
        self.gradients = 0

    def select(self, rows: Tensor) -> Search:
        """Return a new search, without results, on some of the examples."""
        of_these = {
            "handed": tuple(delta[rows] for delta in self.handed),
            "learnt": {name: direction[rows] for name, direction in self.learnt.items()},
        }
        seeds = [self.seeds[row] for row in rows.tolist()]
        return self._anew(self.target.select(rows), self.ball_of(rows), seeds, **of_these)

    def _anew(self, target: Target, ball: PerturbationSet, seeds: list[int], **more) -> Search:
        how = {"steps": self.steps, "restarts": self.restarts, "keep": self.keep, "settled": self.settled}
        return Search(target, ball, seeds, **how, **more)

    def widened(self, ball: PerturbationSet) -> Search:
        """
        Return the search within a larger ball. Broken examples stay broken, and the perturbations found so far are
        also tried at the new boundary.
        """
        wider, scaled = (self._anew(self.target, ball, self.seeds, learnt=self.learnt) for _ in range(2))
        wider.add(self, self.all_rows)
        wider.gradients = 0
        scaled.visit(wider.to_boundary(self.delta), self.all_rows)
        wider.add(scaled, self.all_rows)
        return wider

    def add(self, found: Search, rows: Tensor) -> None:
        """Add the results of a search on these examples. The kept perturbation of a broken example is not replaced."""
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
        """Project perturbations (n, L, d) of some examples onto the ball."""
        return self.ball_of(rows).project(delta, self.target.batch.perturbable[rows])

    def to_boundary(self, delta: Tensor) -> Tensor:
        """Scale up perturbations of all examples beyond the ball, and project them back onto it."""
        lengths = delta.flatten(1).norm(dim=1)
        far = torch.maximum(self.ball.extent(delta, self.target.batch.perturbable) * self.ball.epsilon, lengths)
        # Divide by the length first: a single scaling factor would be infinite for a zero perturbation.
        unit = delta / lengths.clamp_min(torch.finfo(delta.dtype).tiny)[:, None, None]
        return self.project(unit * far[:, None, None], self.all_rows)

    def to_corner(self, direction: Tensor) -> Tensor:
        """Return the point of the ball that is farthest in a direction (B, L, d): for linf, a corner of the cube."""
        lengths = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
        reach = _FAR * self.ball.epsilon * self.ball.extent(direction, self.target.batch.perturbable)
        return self.project(direction / lengths[:, None, None] * reach[:, None, None], self.all_rows)

    def random_points(self, number: int) -> Tensor:
        """Return a random point inside the ball for each example, (B, L, d). Each `number` gives other points."""
        target, points = self.target, torch.zeros_like(self.target.origin)
        for row, seed in enumerate(self.seeds):
            one = torch.tensor([row], device=self.broken.device)
            # Draw no numbers for padding: the drawn numbers would then depend on the rest of the batch.
            own = slice(None, int(target.batch.attention_mask[row].sum()))
            with fixed_seed(self.broken.device, (seed << 16) + number):
                drawn = self.ball_of(one).sample(target.origin[one, own], target.batch.perturbable[one, own])
            points[row, own] = drawn[0]
        return points

    def climb(self, delta: Tensor, rows: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """Return a loss (n,) of [`LOSSES`] at perturbations (n, L, d) of some examples, and its gradient (n, L, d)."""
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
        """Return which examples an ascent can still make worse, (B,) bool."""
        return ~self.broken | (self.sampled >= self.settled)

    def _record(self, delta: Tensor, rows: Tensor, logits: Tensor, batch: AgentBatch) -> None:
        found, values = outcome(logits, batch, self.target.temperature), LOSSES[self.keep](logits, batch)
        self.broken[rows] |= found.greedy == 0
        self.sampled[rows] = torch.minimum(self.sampled[rows], found.sampled)
        self.cost[rows] = torch.maximum(self.cost[rows], found.cost)
        better = values > self.kept[rows]
        self.kept[rows[better]] = values[better]
        self.delta[rows[better]] = delta[better]
