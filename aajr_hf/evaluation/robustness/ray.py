"""Success and loss along the ray from no perturbation through the worst one found. The ray shows sudden drops."""

from __future__ import annotations

import torch
from torch import Tensor

from ...training.sharing.results import Ray
from ..attacks.losses import summed_nll
from ..attacks.target import Target, outcome
from ..means import Means

MULTIPLES = tuple(i / 4 for i in range(13))


@torch.no_grad()
def add_ray(target: Target, at_epsilon: Tensor, totals: Means) -> None:
    """
    Add, under `ray` and by multiple of epsilon, `success` and `sampled_success` (percent) and `nll` (nats per answer).

    Args:
        at_epsilon: (B, L, d), the worst perturbation found, scaled to the boundary of the ball of radius epsilon.
    """
    for multiple in MULTIPLES:
        logits = target.policy(multiple * at_epsilon)
        found = outcome(logits, target.batch, target.temperature)
        totals.add(100 * found.greedy, "ray", "success", str(multiple))
        totals.add(100 * found.sampled, "ray", "sampled_success", str(multiple))
        totals.add(summed_nll(logits, target.batch), "ray", "nll", str(multiple))


def ray_numbers(means: dict[str, dict[str, float]]) -> Ray:
    """Return the means of [`add_ray`] as lists, together with `multiples`."""
    return {"multiples": list(MULTIPLES)} | {name: list(values.values()) for name, values in means.items()}
