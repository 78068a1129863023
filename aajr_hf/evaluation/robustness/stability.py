"""Check the conditions of Theorems 2 and 3 along an inner ascent, similar to training, on held-out observations."""

from __future__ import annotations

import torch
from torch import Tensor

from ...objective import AscentTrajectory, projected_gradient_ascent, segment_curvature
from ...training.policy.monitoring import LogitRecorder, logit_smoothness
from ...training.policy.stability import Stability, measure_stability
from ...training.policy.system_losses import expected_cost
from ...training.sharing.results import StabilityNumbers
from ..attacks.settings import RobustnessSettings
from ..attacks.target import Target

_RULE = "normalized"
SHARES = ("within_bound", "within_curvature", "monotone", "at_boundary")


def inner_ascent(target: Target, settings: RobustnessSettings) -> tuple[AscentTrajectory, Stability]:
    """
    Run the inner ascent on one batch and measure its stability.

    The ascent starts from zero and takes K steps of unit direction within the threat model's ball of radius epsilon.
    The step size is `2.5 epsilon / K`, times half of the ball's l2 diameter over epsilon. These are the defaults of
    training, but the ascent maximises the expected system cost, which may differ from the loss of the adversary in
    training. The gradient at `delta_K` is computed, too, which training does not do, so that the curvature of all K
    segments is known.
    """
    steps, ball, recorder = settings.ascent_steps, target.ball(1.0), LogitRecorder()
    mask = target.batch.perturbable

    def cost(delta: Tensor) -> Tensor:
        logits = target.policy(delta)
        recorder.propose(logits)
        return expected_cost(logits, target.batch)

    further = projected_gradient_ascent(
        cost,
        target.origin,
        ball,
        steps=steps + 1,
        step_size=2.5 * ball.epsilon * ball.extent(target.origin, mask) / steps,
        step_rule=_RULE,
        mask=mask,
        final_loss=False,
        on_point=recorder.accept,
    )
    trajectory = further.first(steps)
    stability = measure_stability(
        trajectory,
        recorder.secants(trajectory),
        ball,
        mask,
        logit_smoothness("expected_cost", target.batch),
        _RULE,
        segment_curvature(further),
    )
    return trajectory, stability


def stability_numbers(batches: list[Stability]) -> StabilityNumbers:
    """
    Summarise the stability of all examples. Curvature and step sizes have heavy tails that would dominate a mean, so
    quartiles are given.

    Returns:
        - `per_step`: for each of the K steps, the three quartiles over examples of `curvature` (kappa_t),
          `absolute_curvature`, `amplification` (the secant, `||J v||`) and `step_size` (eta).
        - `per_example`: the three quartiles over examples of the largest `absolute_curvature`, `amplification` and
          `step_size` along the ascent (`largest_...`), and of `loss_smoothness` (L_loss), `residual` (C),
          `effective_smoothness` (L_eff) and `step_size_bound` (1 / L_eff).
        - `shares`: for each step, the percentage of examples whose step is `within_bound` (`eta <= 1 / L_eff`), is
          `within_curvature` (`eta <= 1 / max_t |kappa_t|`), is `monotone`, and ends `at_boundary`.
        - `monotone_within_bound` and `monotone_within_curvature`: the percentage of the steps within the bound, or
          within the curvature, that are monotone. Absent if there are no such steps.
    """

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(batch, name).cpu().double() for batch in batches], dim=-1)

    def of_smoothness(name: str) -> Tensor:
        return torch.cat([getattr(batch.smoothness, name).cpu().double() for batch in batches])

    curvature, amplification, step_size = joined("curvature"), joined("amplification"), joined("step_sizes")
    steps = {
        "curvature": curvature,
        "absolute_curvature": curvature.abs(),
        "amplification": amplification,
        "step_size": step_size,
    }
    largest = {f"largest_{name}": values.amax(dim=0) for name, values in steps.items() if name != "curvature"}
    terms = {"loss_smoothness": "loss", "residual": "residual", "effective_smoothness": "effective"}
    bound = {name: of_smoothness(field) for name, field in (terms | {"step_size_bound": "step_size_bound"}).items()}
    shares = {name: joined(name) for name in SHARES}
    numbers = {
        "per_step": {name: _quartiles(values).tolist() for name, values in steps.items()},
        "per_example": {name: _quartiles(values).tolist() for name, values in (largest | bound).items()},
        "shares": {name: (100 * values.mean(dim=1)).tolist() for name, values in shares.items()},
    }
    for name in ("within_bound", "within_curvature"):
        within = shares[name].bool()
        if within.any():
            numbers[f"monotone_{name}"] = 100 * float(shares["monotone"][within].mean())
    return numbers


def _quartiles(values: Tensor) -> Tensor:
    """Return the quartiles over the last dimension: (..., B) -> (..., 3)."""
    return values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype), dim=-1).movedim(0, -1)
