"""The threat model: which tokens the adversary perturbs, and how far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...objective import PerturbationSet


@dataclass(frozen=True)
class ThreatModel:
    """
    The threat model. Its fields have the same names and meanings as in `AAJRConfig` and in the recipe of an agent.

    Attributes:
        epsilon: Radius of the perturbation ball, in units of `epsilon_mode`. Attack radii are multiples of it.
        epsilon_mode: `relative` (unit: mean l2 norm of the example's perturbed embeddings) or `absolute`.
        perturbation_norm: `l2` or `linf`.
        perturbation_scope: `sequence` (one ball over all perturbed tokens) or `token` (one ball for each token).
        perturbed_tokens: `prompt`, `observation`, `user`, `tool`, `incidental` or `all`.
    """

    epsilon: float = 0.25
    epsilon_mode: str = "relative"
    perturbation_norm: str = "l2"
    perturbation_scope: str = "sequence"
    perturbed_tokens: str = "prompt"

    def unit(self, scale: Tensor) -> Tensor:
        """Return the unit of epsilon (B,), given the mean norms of the examples' perturbed embeddings (B,)."""
        return scale if self.epsilon_mode == "relative" else torch.ones_like(scale)

    def ball(self, scale: Tensor, multiple: float = 1.0) -> PerturbationSet:
        """Return the ball of radius `multiple` times epsilon; `scale` is as in [`ThreatModel.unit`]."""
        radius = multiple * self.epsilon * self.unit(scale)
        return PerturbationSet(radius, self.perturbation_norm, self.perturbation_scope)
