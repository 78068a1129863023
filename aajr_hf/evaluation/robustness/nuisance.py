"""How much of what varies without changing the right answer lies in a subspace, and how far it moves an agent (arXiv 2605.22800)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...objective import squared_amplification
from ...training.adversary.nuisance import basis_of, coverage, factor_of, matched_direction, variant_differences
from ...training.adversary.sensitivity import directions_to_other_answers
from ...training.data.variants import DRAWS, with_variants
from ...training.policy.forward_mode import forward_ad_ready
from ...training.policy.policy import fixed_seed, frozen_parameters
from ...training.sharing.results import Nuisance
from ..agents import Agent
from ..attacks.settings import RobustnessSettings
from ..attacks.target import Target
from ..batches import batches_by_length, read_batch
from .stability import inner_ascent

# What a subspace is estimated from; the last two are controls.
ASCENT, VARIANTS, ANSWERS, RANDOM = "ascents", "variants", "answers", "random"


def nuisance_numbers(agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings, rank: int) -> Nuisance:
    """
    Estimate subspaces of at most `rank` directions of a token's embedding from each half of the rows, and measure on the other
    half. The numbers are means of both.

    Args:
        rows: At least two rows of a world, with a column `variants`.

    Raises:
        ValueError: if no variant of a half has as many tokens as its row and differs from it where the adversary may move it.
    """
    device = agent.model.device
    with frozen_parameters(agent.model.eval()), fixed_seed(device, settings.seed), torch.no_grad():
        halves = [_Half.of(agent, half, settings, rank) for half in (rows[::2], rows[1::2])]
        if not all(half.moments[VARIANTS].any() for half in halves):
            raise ValueError(
                "`--nuisance`: no variant has as many tokens as its observation and differs from it in `--perturbed_tokens`: "
                "raise `--examples`, or leave out `--nuisance`."
            )
        found = {}
        for name in (ASCENT, VARIANTS, ANSWERS, RANDOM):
            both = [_measured(learnt, other, name, rank) for learnt, other in (halves, halves[::-1])]
            found[name] = {key: sum(one[key] for one in both) / 2 for key in both[0]}
    moved = torch.cat([half.moved for half in halves])
    return {
        "rank": rank,
        "dimensions": len(halves[0].moments[RANDOM]),
        "variants": len(moved),
        "changed": 100 * float((moved[:, 0]).mean()),
        "shift": float(moved[:, 1].mean()),
        "subspaces": found,
    }


def _measured(learnt: _Half, other: _Half, name: str, rank: int) -> dict[str, float]:
    factor = factor_of(learnt.moments[name], rank)
    return {
        "directions": float(basis_of(factor).shape[1]),
        "of_ascents": 100 * coverage(factor, other.moments[ASCENT]),
        "of_variants": 100 * coverage(factor, other.moments[VARIANTS]),
        "drift": other.drift(factor_of(learnt.moments[name], len(factor))),
    }


@dataclass
class _Half:
    """
    Half of the rows.

    Attributes:
        targets: The agent on their batches.
        moments: By name, the second moment (d, d) of the directions at the perturbable tokens, in float64.
        moved: (variants, 2): whether a variant changes the agent's answer, and the length of the change of its logits.
    """

    targets: list[Target]
    moments: dict[str, Tensor]
    moved: Tensor = field(default_factory=lambda: torch.zeros(0, 2))

    @classmethod
    def of(cls, agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings, rank: int) -> _Half:
        batches = batches_by_length(agent.tokenizer, rows, settings.batch_size)
        half = cls([_target(agent, [rows[number] for number in numbers], settings) for numbers in batches], {})
        for target in half.targets:
            mask = target.batch.perturbable
            with torch.enable_grad():
                trajectory, _ = inner_ascent(target, settings)
            half._add(ASCENT, trajectory.directions[:, mask].flatten(0, 1))
            half._add(ANSWERS, directions_to_other_answers(target.state, target.batch)[mask])
        half._add_variants(agent, rows, settings)
        width = half.targets[0].state.shape[-1]
        half._add(RANDOM, torch.linalg.qr(torch.randn(width, min(rank, width), device=agent.model.device))[0].T)
        return half

    def drift(self, factor: Tensor) -> float:
        """The mean over the rows of `E Tr(J S J')` without a perturbation, for `S = F F'`, with one draw for each row."""
        found = []
        for target in self.targets:
            direction = matched_direction(factor, target.batch.perturbable, target.origin)
            with forward_ad_ready(target.model):
                found.append(squared_amplification(target.policy, target.origin, direction))
        return float(torch.cat(found).mean())

    def _add(self, name: str, rows: Tensor) -> None:
        rows = rows.double().cpu()
        self.moments[name] = self.moments.get(name, 0) + rows.T @ rows

    def _add_variants(self, agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings) -> None:
        groups, size = with_variants(rows, settings.seed), max(settings.batch_size // (1 + DRAWS), 1)
        for some in (groups[start : start + size] for start in range(0, len(groups), size)):
            target = _target(agent, [row for group in some for row in group], settings)
            places = torch.arange(len(target.batch), device=target.state.device).split([len(group) for group in some])
            logits, mask = target.policy(), target.batch.action_mask
            for place in places:
                self._add(VARIANTS, variant_differences(target.state[place], target.batch.select(place)))
                row, others, said = logits[place[0]], logits[place[1:]], mask[place[0]]
                changed = ((others.argmax(dim=-1) != row.argmax(dim=-1)) & said).any(dim=1)
                shift = (others - row).flatten(1).norm(dim=1)
                self.moved = torch.cat([self.moved, torch.stack([changed.to(shift), shift], dim=1).cpu()])


def _target(agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings) -> Target:
    batch = read_batch(agent.tokenizer, rows, settings.threat.perturbed_tokens, agent.model.device)
    return Target(agent.model, batch, settings.threat)
