"""Success and loss on the way from no perturbation to the worst one that was found, and beyond: where an agent falls off a cliff."""

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
        at_epsilon: (B, L, d), the worst perturbation found, lengthened to the boundary of the ball of epsilon.
    """
    for multiple in MULTIPLES:
        logits = target.policy(multiple * at_epsilon)
        found = outcome(logits, target.batch)
        totals.add(100 * found.greedy, "ray", "success", str(multiple))
        totals.add(100 * found.sampled, "ray", "sampled_success", str(multiple))
        totals.add(summed_nll(logits, target.batch), "ray", "nll", str(multiple))


def ray_numbers(means: dict[str, dict[str, float]]) -> Ray:
    """The same as lists, beside `multiples`."""
    return {"multiples": list(MULTIPLES)} | {name: list(values.values()) for name, values in means.items()}
