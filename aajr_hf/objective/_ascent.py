"""Projected gradient ascent on a system loss, with the trajectory that the penalty needs (equations 11 and 12)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ._backtracking import Backtracking
from ._perturbation import PerturbationSet, per_example, per_example_norm
from ._steps import FixedSteps, Point, loss_at_end

STEP_RULES = ("gradient", "normalized", "sign")

# eps0 of equation 12: keeps the direction finite where the gradient vanishes.
EPS0 = 1e-12

# A segment shorter than this many units in the last place of a perturbation counts as rounding error. The number is
# large because a forward pass rounds more than a sum.
_ROUNDING_ULPS = 1024


@dataclass(frozen=True)
class AscentTrajectory:
    """
    The points and directions of one projected gradient ascent. All tensors are detached.

    Attributes:
        deltas: (K+1, B, ...), `delta_0` to `delta_K`.
        directions: (K, B, ...), `u_t = grad g(delta_t) / (||grad g(delta_t)||_2 + eps0)` (equation 12): always the
            gradient, whatever the step rule.
        losses: (K+1, B), `g(delta_t)`; the last row is NaN if the ascent ran with `final_loss=False`.
        gradient_norms: (K, B), `||grad g(delta_t)||_2`.
        step_sizes: (K, B), the eta of each step.
    """

    deltas: Tensor
    directions: Tensor
    losses: Tensor
    gradient_norms: Tensor
    step_sizes: Tensor

    def select(self, rows: Tensor) -> AscentTrajectory:
        """The trajectories of some examples of the batch."""
        return AscentTrajectory(*(getattr(self, f.name)[:, rows] for f in fields(self)))

    def at(self, steps: Tensor, rows: Tensor) -> AscentTrajectory:
        """
        Return trajectories of one step each, as a batch of n: the i-th has only step `steps[i]` of example `rows[i]`.
        Both arguments are (n,).
        """
        ends = {
            name: torch.stack([getattr(self, name)[steps + i, rows] for i in (0, 1)]) for name in ("deltas", "losses")
        }
        single = ("directions", "gradient_norms", "step_sizes")
        return AscentTrajectory(**ends, **{name: getattr(self, name)[steps, rows][None] for name in single})

    def first(self, steps: int) -> AscentTrajectory:
        """The first `steps` steps of the trajectory."""
        ends = {"deltas": self.deltas[: steps + 1], "losses": self.losses[: steps + 1]}
        return AscentTrajectory(
            **ends, **{f.name: getattr(self, f.name)[:steps] for f in fields(self) if f.name not in ends}
        )

    def followed_by(self, other: AscentTrajectory) -> AscentTrajectory:
        """Join this trajectory with `other`, which begins where this one ends."""
        ends = {
            "deltas": torch.cat([self.deltas, other.deltas[1:]]),
            # `other` has the loss at the shared point; here it may be NaN.
            "losses": torch.cat([self.losses[:-1], other.losses]),
        }
        others = [f.name for f in fields(self) if f.name not in ends]
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in others}
        return AscentTrajectory(**ends, **joined)

    @functools.cached_property
    def lengths(self) -> Tensor:
        """
        `||delta_{t+1} - delta_t||`, shape (K, B). Zero if the ascent no longer moves and the length is only rounding
        error: a quotient by it would be noise.
        """
        lengths = self.deltas.diff(dim=0).flatten(2).norm(dim=2)
        rounding = _ROUNDING_ULPS * torch.finfo(lengths.dtype).eps * self.deltas[1:].flatten(2).norm(dim=2)
        return torch.where(lengths > rounding, lengths, 0.0)

    @property
    def steps(self) -> int:
        return self.directions.shape[0]

    def gradients(self) -> Tensor:
        """`grad g(delta_t)`, shape (K, B, ...), recovered from directions and norms."""
        scale = self.gradient_norms + EPS0
        return self.directions * scale.reshape(scale.shape + (1,) * (self.directions.ndim - 2))


def step_direction(gradient: Tensor, rule: str) -> Tensor:
    """`step(grad)` of equation 11: the gradient itself, scaled to unit norm per example, or its sign."""
    if rule == "gradient":
        return gradient
    if rule == "normalized":
        # First scale by a power of two, which is exact: an almost certain policy has gradients whose squares
        # underflow.
        smallest = math.frexp(torch.finfo(gradient.dtype).tiny)[1]
        exponent = torch.frexp(gradient.flatten(1).abs().amax(dim=1)).exponent.clamp_min(smallest)
        gradient = torch.ldexp(gradient, -exponent.reshape(-1, *[1] * (gradient.ndim - 1)))
        return gradient / per_example(per_example_norm(gradient) + EPS0, gradient)
    if rule == "sign":
        return gradient.sign()
    raise ValueError(f"`step_rule` must be one of {STEP_RULES}, got {rule!r}.")


@torch.no_grad()
def projected_gradient_ascent(
    loss_fn: Callable[[Tensor], Tensor],
    state: Tensor,
    perturbation_set: PerturbationSet,
    *,
    steps: int,
    step_size: float | Tensor | str,
    step_rule: str = "gradient",
    mask: Tensor | None = None,
    start: Tensor | None = None,
    final_loss: bool = True,
    select: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None,
    on_point: Callable[[], None] | None = None,
) -> AscentTrajectory:
    """
    Equation 11: `delta_{t+1} = Proj(delta_t + eta * step(grad g(delta_t)))`, t = 0..steps-1, from `delta_0 = 0`.

    Gradients are taken only with respect to delta: no parameter of `loss_fn` receives a gradient.

    Args:
        loss_fn: Maps `state + delta` (B, ...) to per-example losses (B,); examples must not depend on each other.
        state: (B, ...), for a language model the input embeddings (B, L, d).
        perturbation_set: The ball to stay in.
        steps: K, at least 0.
        step_size: eta, a number or a tensor (B,). `"auto"` chooses eta for each example and step, by backtracking from
            the last accepted eta, so that inequality 25 holds:
            `g(delta_{t+1}) >= g(delta_t) + ||delta_{t+1} - delta_t||^2 / (2 eta)` (Theorem 3). If no such eta is
            found, the example does not move.
        step_rule: `"gradient"` (the paper), `"normalized"` (unit norm per example) or `"sign"`.
        mask: Optional, a prefix of the state's shape, e.g. (B, L): true where perturbing is allowed.
        start: Optional `delta_0` instead of zero, for example for random restarts. It is projected onto the ball
            first.
        final_loss: Whether to evaluate `g(delta_K)`, which costs one more forward pass. Set it to false if you
            evaluate `g(delta_K)` anyway. With `"auto"`, the value is known without this pass.
        select: Optional, for `"auto"`: a function that maps rows (n,) to the `loss_fn` of only these examples.
            Examples that have accepted a step are then not evaluated again.
        on_point: Called after the evaluation of each of `delta_0`, ..., `delta_{K-1}`, in this order. At each call,
            the last evaluation of every example was at this point.

    Returns:
        The trajectory, detached.

    Raises:
        ValueError: if `steps` is negative; if `step_size` is negative, not finite or has a wrong shape; if `step_rule`
            is unknown; or if `"auto"` is used with a rule other than `"gradient"` (inequality 25 is stated for plain
            gradient steps).
    """
    _check_arguments(state.shape[0], steps, step_size, step_rule)
    state = state.detach()
    delta = torch.zeros_like(state) if start is None else perturbation_set.project(start.detach(), mask)
    stepping: Backtracking | FixedSteps
    if isinstance(step_size, str):
        stepping = Backtracking(loss_fn, state, perturbation_set, mask, select)
        eta = state.new_full(state.shape[:1], torch.inf)  # as long as the ball allows
    else:
        direction = functools.partial(step_direction, rule=step_rule)
        stepping = FixedSteps(loss_fn, state, perturbation_set, mask, direction, final_loss)
        eta = torch.as_tensor(step_size, dtype=state.dtype, device=state.device).expand(state.shape[0])
    deltas: list[Tensor] = [delta]
    directions: list[Tensor] = []
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    etas: list[Tensor] = []
    if steps:
        point = stepping.start(delta)
    else:
        point = Point(delta, loss_at_end(loss_fn, state, delta, final_loss), torch.zeros_like(delta))

    for t in range(steps):
        if on_point is not None:
            on_point()
        last, before = t + 1 == steps, point
        point, eta = stepping.step(before, eta, last)
        norm = per_example_norm(before.gradient)
        deltas.append(point.delta)
        directions.append(before.gradient / per_example(norm + EPS0, before.gradient))
        losses.append(before.loss)
        norms.append(norm)
        etas.append(eta)
        if not last:
            eta = stepping.next_step_size(before, point, eta)

    losses.append(point.loss)

    def stack(rows: list[Tensor], shape: torch.Size) -> Tensor:
        return torch.stack(rows) if rows else state.new_zeros((0, *shape))

    batch = state.shape[:1]
    return AscentTrajectory(
        deltas=torch.stack(deltas),
        directions=stack(directions, state.shape),
        losses=torch.stack(losses),
        gradient_norms=stack(norms, batch),
        step_sizes=stack(etas, batch),
    )


def _check_arguments(batch: int, steps: int, step_size: float | Tensor | str, step_rule: str) -> None:
    if steps < 0:
        raise ValueError(f"`steps` must be at least 0, got {steps}.")
    if step_rule not in STEP_RULES:
        raise ValueError(f"`step_rule` must be one of {STEP_RULES}, got {step_rule!r}.")
    if isinstance(step_size, str):
        if step_size != "auto":
            raise ValueError(f"`step_size` must be a number or 'auto', got {step_size!r}.")
        if step_rule != "gradient":
            raise ValueError(f"`step_size='auto'` needs `step_rule='gradient'`, got {step_rule!r}.")
        return
    values = torch.as_tensor(step_size)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(f"`step_size` must be a finite number of at least 0, got {step_size}.")
    if values.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"`step_size` must be a number or one number per example, shape ({batch},), got shape {tuple(values.shape)}."
        )
