"""What one agent answers to one batch of rows, without and under attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...training.policy.system_losses import nll
from ..attacks.lessons import UNIVERSAL
from ..attacks.run import Tallies, Tally
from ..attacks.search import Search
from ..attacks.suite import ATTACKS, Attack
from ..attacks.target import Target
from ..means import Means
from ..robustness.shared_directions import SharedMeasurement
from .caller import ToolCaller
from .judge import Verdict


class _Settings(Protocol):
    """What an attack on a batch needs of the settings of an evaluation."""

    attacks: tuple[str, ...]
    attack_steps: int
    attack_restarts: int
    exhaustive: bool
    seed: int


@dataclass
class CallNumbers:
    """
    Numbers of one batch. Batches may be measured in different processes, and are then joined.

    Attributes:
        rows: Numbers of the batch's rows.
        verdicts, nll: For `nominal` and for each multiple of epsilon, the worst verdict of each row so far, and the highest
            negative log-likelihood of its completion (B,), in nats per token.
        totals, tallies: Numbers that are added up.
        universal: For each multiple, which rows are exact without attack and broken by some attack, and which ones
            `universal` breaks, both (B,).
    """

    rows: list[int]
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    nll: dict[str, Tensor] = field(default_factory=dict)
    totals: Means = field(default_factory=Means)
    tallies: Tallies = field(default_factory=dict)
    universal: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class CallsUnderAttack:
    """
    Attack one batch of rows with increasing radii.

    Args:
        batch: Rows of [`read_rows`].
        rows: Their numbers.
        shared: What the attacks along learnt directions have learnt; None without such an attack.

    Attributes:
        numbers: What was found so far.
    """

    def __init__(
        self,
        caller: ToolCaller,
        target: Target,
        batch: list[dict[str, Any]],
        rows: list[int],
        settings: _Settings,
        shared: SharedMeasurement | None,
    ):
        self._caller, self._target, self._batch = caller, target, batch
        self._settings, self._shared = settings, shared
        self._learnt: dict[str, Tensor] = {}
        self._alone: dict[str, set[int]] = {}
        self.numbers = CallNumbers(
            rows, {"nominal": caller.answer(batch)}, {"nominal": self._nll(target, target.origin)}
        )
        self.numbers.totals.add(target.scale, "embedding_norm")

    def attack(self, multiple: float) -> None:
        """Continue with a larger radius, and run one attack after the other."""
        numbers = self.numbers
        name, before = f"{multiple:g}", next(reversed(numbers.verdicts))
        numbers.verdicts[name], numbers.nll[name] = list(numbers.verdicts[before]), numbers.nll[before].clone()
        if self._shared is not None:
            self._learnt = self._shared.lessons.on(self._target, numbers.rows, multiple)
        for attack in self._settings.attacks:
            if attack in ATTACKS:
                self._run(ATTACKS[attack], multiple, name)
        if UNIVERSAL in self._settings.attacks:
            both = zip(numbers.verdicts["nominal"], numbers.verdicts[name], strict=True)
            broken = torch.tensor([nominal.exact and not verdict.exact for nominal, verdict in both])
            by_universal = torch.tensor([i in self._alone[UNIVERSAL] for i in range(len(broken))])
            numbers.universal[name] = broken, by_universal

    def _run(self, attack: Attack, multiple: float, name: str) -> None:
        worst = self.numbers.verdicts[name]
        tally = self.numbers.tallies.setdefault(attack.name, {}).setdefault(name, Tally())
        still_exact = [i for i, verdict in enumerate(worst) if verdict.exact]
        every = self._settings.exhaustive or attack.every_example
        rows = list(range(len(worst))) if every else still_exact
        alone = self._alone.setdefault(attack.name, set())
        if rows:
            for i, verdict in zip(rows, self._answers(attack, rows, multiple, name), strict=True):
                worst[i] = worse(worst[i], verdict)
                if not verdict.exact:
                    alone.add(i)
        left = sum(verdict.exact for verdict in worst)
        tally.attacked += len(still_exact)
        tally.broken += len(still_exact) - left
        tally.left += left
        if self._settings.exhaustive:
            tally.alone = (tally.alone or 0) + len(worst) - len(alone)

    def _answers(self, attack: Attack, rows: list[int], multiple: float, name: str) -> list[Verdict]:
        """Answer some rows under the perturbations with the highest loss that an attack finds."""
        chosen = torch.tensor(rows, device=self._target.origin.device)
        target, settings = self._target.select(chosen), self._settings
        search = Search(
            target,
            target.ball(multiple),
            [settings.seed * 10**6 + self.numbers.rows[row] for row in rows],
            steps=settings.attack_steps,
            restarts=settings.attack_restarts,
            keep=getattr(attack, "loss", "margin"),
            # Run each ascent to its end: a changed token does not always change the call.
            settled=0.0,
            learnt={attack: direction[chosen] for attack, direction in self._learnt.items()},
        )
        attack(search)
        highest = self.numbers.nll[name]
        highest[chosen] = torch.maximum(highest[chosen], self._nll(target, search.delta))
        return self._caller.answer([self._batch[row] for row in rows], search.delta)

    @torch.no_grad()
    def _nll(self, target: Target, delta: Tensor) -> Tensor:
        return nll(target.policy(delta), target.batch)


def worse(one: Verdict, other: Verdict) -> Verdict:
    """Return the worse of two verdicts: invalid is worse than valid, and then not exact is worse than exact."""
    return min(one, other, key=lambda verdict: (verdict.failure is None, verdict.exact))
