"""Amplification: change of an agent's logits per small perturbation, along ascent, random and worst directions."""

from __future__ import annotations

import torch

from ...objective import (
    AscentTrajectory,
    random_unit_direction,
    spectral_norm,
    squared_amplification,
    trajectory_amplification,
)
from ...training.policy.forward_mode import forward_ad_ready
from ..attacks.settings import RobustnessSettings
from ..attacks.target import Target
from ..means import Means
from .membership import add_membership


def add_amplification(
    target: Target, trajectory: AscentTrajectory, settings: RobustnessSettings, totals: Means
) -> None:
    """
    Add amplification numbers to the totals.

    - `amplification`: mean `||J u_t||` of the logits along the directions of the ascent.
    - `amplification_profile`: the same, separately for each point t of the ascent.
    - `random_amplification`: the same at the origin, along random directions.
    - `spectral_norm`: the largest value along any direction at the origin, for the first examples of each batch.
    - `membership`: added if there is a budget ([`add_membership`]).
    """
    policy, origin, mask = target.policy, target.origin, target.batch.perturbable
    with forward_ad_ready(target.model), torch.no_grad():
        along_ascent = trajectory_amplification(policy, origin, trajectory).sqrt()
        totals.add(along_ascent, "amplification")
        for t, values in enumerate(along_ascent):
            totals.add(values, "amplification_profile", str(t))
        random = random_unit_direction(origin, mask)
        totals.add(squared_amplification(policy, origin, random).sqrt(), "random_amplification")
    few = torch.arange(min(settings.spectral_examples, len(target.batch)), device=origin.device)
    with forward_ad_ready(target.model):
        norms = spectral_norm(policy.select(few), origin[few], iterations=settings.power_iterations, mask=mask[few])
    totals.add(norms.detach(), "spectral_norm")
    if settings.budget is not None:
        add_membership(target, trajectory, along_ascent, settings, totals)
