"""The attacks beside PGA within the training radius's multiples: random points, another model's ascent, other words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..objective import PerturbationSet
from ..training.data import encode_examples
from .attack import random_worst_case, worst_case
from .means import Means
from .settings import RobustnessSettings
from .target import Target
from .token_attack import Substitution, substitution_radius, worst_substitution


def check_transfer(
    source: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    target: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    rows: list[dict[str, Any]],
) -> None:
    """
    Raise a ValueError unless perturbations of the source's embeddings are ones of the target's: both must split the rows
    into the same tokens and have embeddings of one width.
    """
    widths = [model.get_input_embeddings().embedding_dim for model, _ in (source, target)]
    if widths[0] != widths[1]:
        raise ValueError(f"its embeddings have {widths[0]} numbers, those of the attacked model {widths[1]}")
    inputs = [encode_examples(tokenizer, rows, candidates=False) for _, tokenizer in (source, target)]
    if not all(torch.equal(inputs[0][name], inputs[1][name]) for name in ("input_ids", "labels")):
        raise ValueError("its tokenizer splits the prompts into other tokens than that of the attacked model")


class OtherAttacks:
    """
    Measures one batch after the other.

    Args:
        settings: Which attacks, and their strength: `settings.attacks` and `settings.sanity`.
        totals: Gets the outcomes, under `attacks`, the attack's name, and `success`, `sampled_success`, `cost`; these by
            multiple of the training epsilon, or beside `radius` where an attack has its own.
        on_progress: Called after each attack.
        transfer_from: Model of the attack `transfer`.
    """

    def __init__(
        self,
        settings: RobustnessSettings,
        totals: Means,
        on_progress: Callable[[], None],
        transfer_from: PreTrainedModel | None,
    ):
        self.settings, self.totals, self.on_progress = settings, totals, on_progress
        self.transfer_from = transfer_from

    def measure(self, target: Target, trials: list[list[Substitution]] | None) -> None:
        """Attack one batch; `trials` are the substitutions of its examples for the attack `token`."""
        for multiple in self.settings.multiples:
            radius = multiple * self.settings.train_epsilon
            if "random" in self.settings.attacks:
                self._record(target, self._random(target, radius * target.scale), "random", multiple)
            if "transfer" in self.settings.attacks:
                self._record(target, self._transfer(target, radius), "transfer", multiple)
        if trials is not None:
            self._token(target, trials)
        if self.settings.sanity:
            self._sanity(target)

    def _random(self, target: Target, radius: Tensor) -> Tensor:
        """As many points as PGA evaluates, each at a forward; PGA's backwards come on top."""
        points = self.settings.attack_restarts * (self.settings.attack_steps + 1)
        mask = target.batch.perturbable
        return random_worst_case(target.cost, target.origin, PerturbationSet(radius), mask=mask, points=points)[0]

    def _transfer(self, target: Target, epsilon: float) -> Tensor:
        """PGA on the other model, within a radius in its own embedding norms, rescaled to the target's."""
        source = Target(self.transfer_from, target.batch)
        delta = self._pga(source, epsilon * source.scale)
        return delta * (target.scale / source.scale)[:, None, None]

    def _token(self, target: Target, trials: list[list[Substitution]]) -> None:
        """Substitutions, then PGA within the radius that each example's substitution has used."""
        rewritten = worst_substitution(target, trials)
        radius = substitution_radius(target, rewritten)
        self._record(rewritten, rewritten.origin, "token", radius=radius / target.scale)
        self._record(target, self._pga(target, radius), "pga_at_token_radius", radius=radius / target.scale)

    def _sanity(self, target: Target) -> None:
        """
        PGA at the largest multiple with a quarter of the steps, and PGA without a bound that matters: within
        `2 max ||s_i|| sqrt(|P|)`, where each of the |P| embeddings can become any other of the batch, and so the whole
        prompt any other one.
        """
        multiple = max(self.settings.multiples)
        radius = multiple * self.settings.train_epsilon * target.scale
        quarter = self._pga(target, radius, self.settings.attack_steps // 4)
        self._record(target, quarter, "pga_quarter_steps", multiple)
        mask = target.batch.perturbable
        largest = target.state.norm(dim=-1)[mask].max()
        radius = 2 * largest * mask.sum(dim=1).to(target.scale).sqrt()
        self._record(target, self._pga(target, radius), "pga_unbounded", radius=radius / target.scale)

    def _pga(self, target: Target, radius: Tensor, steps: int | None = None) -> Tensor:
        steps = self.settings.attack_steps if steps is None else steps
        restarts, mask = self.settings.attack_restarts, target.batch.perturbable
        return worst_case(
            target.cost, target.origin, PerturbationSet(radius), mask=mask, steps=steps, restarts=restarts
        )[0]

    def _record(
        self, target: Target, delta: Tensor, attack: str, multiple: float | None = None, radius: Tensor | None = None
    ) -> None:
        outcome = target.outcome(delta)
        names = () if multiple is None else (f"{multiple:g}",)
        self.totals.add(100 * outcome.greedy, "attacks", attack, "success", *names)
        self.totals.add(100 * outcome.sampled, "attacks", attack, "sampled_success", *names)
        self.totals.add(outcome.cost, "attacks", attack, "cost", *names)
        if radius is not None:
            self.totals.add(radius, "attacks", attack, "radius")
        self.on_progress()
