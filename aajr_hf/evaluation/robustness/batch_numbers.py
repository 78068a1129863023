"""What one agent shows on one batch of rows. Batches may be measured in different processes, and are then added up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...training.policy.policy import fixed_seed
from ...training.policy.stability import Stability
from ..attacks.lessons import UNIVERSAL
from ..attacks.run import Tallies, UnderAttack
from ..attacks.settings import RobustnessSettings
from ..attacks.target import Target
from ..means import Means
from .amplification import add_amplification
from .stability import inner_ascent
from .token_numbers import TokenAttack


@dataclass
class BatchNumbers:
    """
    Numbers of one agent on one batch.

    Attributes:
        rows: Numbers of the batch's rows.
        totals, tallies, gradients: Numbers that are added up.
        shares: Values of each row (B,), by their place in the results.
        stability: Stability of the inner ascent.
        others: Names of the models whose perturbations were tried.
        universal: For each multiple, which rows are right without attack and broken by some attack, and which ones
            `universal` breaks, both (B,).
    """

    rows: list[int]
    totals: Means = field(default_factory=Means)
    tallies: Tallies = field(default_factory=dict)
    shares: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    gradients: int = 0
    stability: Stability | None = None
    others: set[str] = field(default_factory=set)
    universal: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add_nominal(self, target: Target) -> None:
        nominal = target.outcome(target.origin)
        self.totals.add(target.scale, "embedding_norm")
        self.totals.add(nominal.cost, "nominal_cost")
        self._share(nominal.greedy, "nominal_success")
        self._share(nominal.sampled, "sampled_success")

    def add_worst(self, attacked: UnderAttack, multiple: str) -> None:
        # The zero perturbation counts as well, even if no attack has visited it.
        search, nominal = attacked.search, attacked.target.outcome(attacked.target.origin)
        self._share(nominal.greedy.masked_fill(search.broken, 0), "worst_case_success", multiple)
        self._share(torch.minimum(search.sampled, nominal.sampled), "sampled_worst_case_success", multiple)
        self.totals.add(torch.maximum(search.cost, nominal.cost), "worst_case_cost", multiple)
        self.gradients += search.gradients
        if UNIVERSAL in attacked.broken_by:
            worst = nominal.greedy.bool() & search.broken
            self.universal[multiple] = (worst.cpu(), attacked.broken_by[UNIVERSAL].cpu())

    def add_the_rest(self, target: Target, settings: RobustnessSettings, token: TokenAttack | None) -> None:
        trajectory, self.stability = inner_ascent(target, settings)
        # A seed of its own keeps the results independent of what else is measured.
        with fixed_seed(target.model.device, settings.seed + self.rows[0]):
            add_amplification(target, trajectory, settings, self.totals)
        if token is not None:
            token.measure(target, self.rows, self.totals)

    def _share(self, values: Tensor, *names: str) -> None:
        self.shares[names] = values.double().cpu()
