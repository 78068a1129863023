"""A floor under the sensitivity between observations whose right answers differ: the mirror of the amplification budget."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ...objective import squared_amplification
from ..config.base import AAJRConfigMixin
from ..data.batch import AgentBatch
from ..policy.forward_mode import forward_ad_ready
from ..policy.outputs import PenalisedOutput
from .ascent import PromptAscent


@dataclass(frozen=True)
class Sensitivity:
    """
    Attributes:
        shortfall: The mean over the evaluated examples of `max(floor - ||J v||, 0)^2`, with its graph; an example without
            another answer in its batch counts as 0.
        mean: The mean of `||J v||` over the examples with another answer, detached; 0 if there is none.
    """

    shortfall: Tensor
    mean: Tensor


def directions_to_other_answers(state: Tensor, batch: AgentBatch) -> Tensor:
    """
    For each example a unit direction (B, L, d) from its observation to another observation of the batch, drawn at random
    among those whose right answer differs, at the positions that may be perturbed in both. It is 0 if there is no such
    observation, or if it does not differ there.
    """
    labels = batch.action_labels.masked_fill(~batch.action_mask, -1)
    others = (labels[:, None] != labels[None]).any(dim=-1)
    drawn = torch.rand(others.shape, device=state.device).masked_fill(~others, -1)
    partner = drawn.argmax(dim=1)
    both = batch.perturbable & batch.perturbable[partner] & others.any(dim=1)[:, None]
    towards = torch.where(both[..., None], state[partner] - state, torch.zeros_like(state))
    length = towards.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(length > 0, towards / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)


def sensitivity(
    config: AAJRConfigMixin, ascent: PromptAscent, rows: Tensor, *, estimator: str, difference_step: Tensor | None
) -> Sensitivity:
    """
    Evaluate the floor at the unperturbed observations `rows` (n,) of a micro-batch.

    Args:
        config: The trainer's configuration.
        ascent: The adversary of the whole micro-batch.
        rows: The evaluated examples.
        estimator: `"jvp"` or `"finite_difference"`.
        difference_step: Step of the finite differences, (n,).
    """
    directions = directions_to_other_answers(ascent.state, ascent.policy.batch)[rows]
    policy = ascent.policy if len(rows) == len(ascent.policy.batch) else ascent.policy.select(rows)
    penalised = PenalisedOutput.of(config, policy.batch)
    kwargs = {"estimator": estimator, "difference_step": difference_step, "weigh": penalised.weigh}
    with forward_ad_ready(policy.model) if estimator == "jvp" else contextlib.nullcontext():
        squared = squared_amplification(penalised.after(policy), torch.zeros_like(directions), directions, **kwargs)
    paired = directions.flatten(1).any(dim=1)
    # Clamp before the root, whose derivative at zero is infinite; above the floor, the gradient is zero.
    smallest = torch.finfo(squared.dtype).tiny
    missing = config.sensitivity_floor - squared.clamp(smallest, config.sensitivity_floor**2).sqrt()
    shortfall = (missing.square() * paired).mean()
    found = (squared.detach().sqrt() * paired).sum() / paired.sum().clamp_min(1)
    return Sensitivity(shortfall, found)
