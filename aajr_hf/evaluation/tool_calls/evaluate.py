"""Evaluate how well an agent calls tools, without and under attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.batch import AgentBatch
from ...training.data.roles import OBSERVED_ROLES
from ...training.policy.policy import fixed_seed, frozen_parameters
from ...training.sharing.results import ToolCallNumbers
from ..attacks.rewriting import Attacked, TextAttack
from ..attacks.run import Tallies, Tally, include
from ..attacks.suite import ATTACKS, TEXT_ATTACKS
from ..attacks.target import Target
from ..attacks.threat_model import ThreatModel
from ..batches import batches_by_length, check_moved, read_batch
from ..means import Means
from ..processes import gathered, is_first, my_share
from ..radii import nearest_to_one
from ..robustness.shared_directions import SharedMeasurement, measurement_for
from ..robustness.tallies import tally_numbers
from ..robustness.together import add_together, in_words
from ..robustness.trust import SAMPLE, measure_trust, trust_rules
from ..unfinished import NOTHING_KEPT, Unfinished
from .caller import ToolCaller
from .judge import FAILURES, Verdict
from .rewritten import attack_calls
from .under_attack import CallNumbers, CallsUnderAttack

# Attacks within a radius that need no action costs of a world and no other models.
WITHIN_RADIUS = tuple(name for name, attack in ATTACKS.items() if not attack.from_others and name != "cost")
ON_CALLS = (*WITHIN_RADIUS, *TEXT_ATTACKS)
# What the numbers of a batch consist of.
PARTS = (CallNumbers, Means, Tally, Verdict)


@dataclass(frozen=True)
class ToolCallSettings:
    """
    Settings of an evaluation on tool calls.

    Attributes:
        threat: The threat model.
        multiples: Radii of the attacks, in multiples of the threat model's epsilon.
        attacks: Names from [`ON_CALLS`]: attacks that need no costs and no other models.
        attack_steps: Steps of each ascent.
        attack_restarts: Number of ascents of each attack.
        exhaustive: Whether every attack sees all examples. Otherwise, it sees only those that are not broken yet.
        max_new_tokens: Length limit of an answer; None for twice the length of the reference answer, plus 32.
        batch_size: Examples per forward pass.
        seed: Seed of the attacks' random choices.
        injections: File with the texts of the attack `injection`; None for the package's own.
        triggers: Texts of a bank of triggers, which the attack `trigger` also tries.
    """

    threat: ThreatModel = ThreatModel(perturbed_tokens="observation")
    multiples: tuple[float, ...] = (0.5, 1.0, 1.5)
    attacks: tuple[str, ...] = ON_CALLS
    attack_steps: int = 10
    attack_restarts: int = 1
    exhaustive: bool = False
    max_new_tokens: int | None = None
    batch_size: int = 16
    seed: int = 0
    injections: str | None = None
    triggers: tuple[str, ...] = ()

    @property
    def on_texts(self) -> list[TextAttack]:
        """The chosen attacks that rewrite texts."""
        return [TEXT_ATTACKS[name] for name in self.attacks if name in TEXT_ATTACKS]

    def progress_steps(self, examples: int) -> int:
        """Return the number of progress reports of an evaluation on this number of examples, in this process."""
        rewritings = sum(attack.tries(kind, len(self.triggers)) for attack in self.on_texts for kind in attack.kinds)
        batches = len(my_share(-(-examples // self.batch_size)))
        return batches * (1 + len(self.multiples)) + 1 + rewritings

    def progress_done(self, examples: int, unfinished: Unfinished) -> int:
        """Return how many of these reports an interrupted evaluation has made."""
        return unfinished.done(-(-examples // self.batch_size)) * (1 + len(self.multiples))


def evaluate_tool_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: ToolCallSettings,
    on_progress: Callable[[], None] = lambda: None,
    unfinished: Unfinished = NOTHING_KEPT,
) -> ToolCallNumbers:
    """
    Measure one agent on rows of [`read_rows`].

    Answers are decoded greedily, with and without perturbations of the prompt's embeddings. Within each radius, each
    attack gives the perturbation with the highest loss that it finds, and the answers to all of these count. [`judge`]
    defines valid and exact. The attacks do not optimise these two directly, but losses of the row's completion, so
    other perturbations may be worse. A row is attacked until an answer is not exact.

    Args:
        unfinished: What an interrupted evaluation has left, with [`PARTS`]: it is not measured again.

    Returns:
        - `nominal_valid` and `nominal_exact`, in percent, and by multiple of epsilon `worst_case_valid` and
          `worst_case_exact`: the shares that no attack breaks within this or a smaller radius.
        - `nominal_nll` and `worst_case_nll`: negative log-likelihood of the completions, in nats per token.
        - `failures`: for `nominal` and each multiple, the number of answers that are invalid for each reason in
          [`FAILURES`].
        - `reference_valid` and `reference_exact`: the same shares for the completions themselves, as the template
          renders them. They are below 100 if the data breaks its own schemas.
        - `outcomes`: the four shares row by row.
        - `attacks`: by attack and multiple, the number of rows `attacked` and `broken` (no longer exact), the share
          `exact` left after this attack and all earlier ones, and, if every attack saw all rows, the share left by
          this attack `alone`.
        - `text_attacks`: the results of [`attack_calls`] by attack. They have no radius, and do not count for the
          worst case within one.
        - With an attack in words, `all_attacks_exact` by multiple, and `by_words` ([`add_together`]).
        - `trust` ([`trust_rules`]), `embedding_norm` and `examples`.
        - `shared_directions` ([`SharedDirections`]) with the attack `universal` or `predicted`.

    Raises:
        ValueError, jinja2.TemplateError: as [`ToolCaller`].
    """
    caller = ToolCaller(model, tokenizer, rows, settings.max_new_tokens)
    # Read all rows first, because a row may have no token to perturb.
    batches = list(_batches(model, tokenizer, rows, settings))
    check_moved(((numbers, encoded) for _, numbers, encoded in batches), settings.threat.perturbed_tokens)
    totals, tallies = Means(), Tallies()
    _add(totals, caller.reference_verdicts, "reference")
    with fixed_seed(model.device, settings.seed), frozen_parameters(model):
        shared = measurement_for(settings, lambda some: _target(model, tokenizer, rows, some, settings), len(rows))
        found = {}
        for place in my_share(len(batches)):
            attack = functools.partial(_attack_batch, caller, model, batches[place], settings, shared, on_progress)
            found[place] = unfinished.piece(place, attack)
        parts = gathered(found)
    for part in parts:
        totals.include(part.totals)
        include(tallies, part.tallies)
        for multiple, counted in part.universal.items():
            shared.add(*counted, multiple)
    with fixed_seed(model.device, settings.seed), frozen_parameters(model):
        first = Target(model, batches[0][2], settings.threat)
        some = torch.arange(min(SAMPLE, len(batches[0][0])), device=model.device)
        check = functools.partial(measure_trust, first.select(some), nearest_to_one(settings.multiples))
        measured = (unfinished.part("trust") if is_first() else NOTHING_KEPT).piece(0, check)
        on_progress()
    numbers = totals.result() | _joined(parts, len(rows)) | {"examples": len(rows)}
    on = Attacked(
        model,
        tokenizer,
        OBSERVED_ROLES.get(settings.threat.perturbed_tokens, OBSERVED_ROLES["observation"]),
        seed=settings.seed,
        texts=settings.injections and Path(settings.injections),
        triggers=settings.triggers,
        batch_size=settings.batch_size,
    )
    nominal = [outcome == 1 for outcome in numbers["outcomes"]["nominal_exact"]]
    numbers["text_attacks"] = {
        attack.name: attack_calls(caller, rows, nominal, attack, on, on_progress) for attack in settings.on_texts
    }
    add_together(numbers, "worst_case_exact", in_words(numbers["text_attacks"]))
    numbers["attacks"] = {name: tally_numbers(by_radius, len(rows), "exact") for name, by_radius in tallies.items()}
    numbers["trust"] = trust_rules(numbers["worst_case_exact"], len(rows), tallies, measured)
    if shared is not None:
        numbers["shared_directions"] = shared.result()
    return numbers


def _attack_batch(
    caller: ToolCaller,
    model: PreTrainedModel,
    batch: tuple[list[dict[str, Any]], list[int], AgentBatch],
    settings: ToolCallSettings,
    shared: SharedMeasurement | None,
    on_progress: Callable[[], None],
) -> CallNumbers:
    """Attack one batch of [`_batches`]."""
    some, numbers, encoded = batch
    calls = CallsUnderAttack(caller, Target(model, encoded, settings.threat), some, numbers, settings, shared)
    on_progress()
    for multiple in sorted(settings.multiples):
        calls.attack(multiple)
        on_progress()
    return calls.numbers


def _joined(parts: list[CallNumbers], examples: int) -> dict[str, Any]:
    """Join the batches: shares, their outcomes row by row, NLL and failures."""
    numbers: dict[str, Any] = {"outcomes": {}, "failures": {}}
    for name in parts[0].verdicts:
        verdicts: list[Verdict] = [None] * examples
        for part in parts:
            for number, verdict in zip(part.rows, part.verdicts[name], strict=True):
                verdicts[number] = verdict
        values = {"valid": [float(v.failure is None) for v in verdicts], "exact": [float(v.exact) for v in verdicts]}
        for kind, outcomes in values.items():
            _put(numbers, f"_{kind}", name, 100 * sum(outcomes) / examples)
            _put(numbers["outcomes"], f"_{kind}", name, outcomes)
        _put(numbers, "_nll", name, float(torch.cat([part.nll[name].cpu() for part in parts]).double().mean()))
        reasons = [verdict.failure for verdict in verdicts if verdict.failure is not None]
        numbers["failures"][name] = {reason: reasons.count(reason) for reason in FAILURES}
    return numbers


def _put(numbers: dict[str, Any], kind: str, name: str, value: Any) -> None:
    if name == "nominal":
        numbers[f"nominal{kind}"] = value
    else:
        numbers.setdefault(f"worst_case{kind}", {})[name] = value


def _target(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    numbers: list[int],
    settings: ToolCallSettings,
) -> Target:
    """Return the attack target of the rows with these numbers."""
    some, moved = [rows[number] for number in numbers], settings.threat.perturbed_tokens
    return Target(model, read_batch(tokenizer, some, moved, model.device, candidates=False), settings.threat)


def _batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], settings: ToolCallSettings
) -> Iterator[tuple[list[dict[str, Any]], list[int], AgentBatch]]:
    """Yield rows of about the same length, their numbers, and the encoded batch."""
    moved = settings.threat.perturbed_tokens
    for number, row in enumerate(rows):  # one by one, so that an error names the row
        read_batch(tokenizer, [row], moved, model.device, first=number, candidates=False)
    for numbers in batches_by_length(tokenizer, rows, settings.batch_size):
        batch = [rows[number] for number in numbers]
        yield batch, numbers, read_batch(tokenizer, batch, moved, model.device, candidates=False)


def _add(totals: Means, verdicts: list[Verdict], name: str) -> None:
    totals.add(torch.tensor([100.0 * (v.failure is None) for v in verdicts]), f"{name}_valid")
    totals.add(torch.tensor([100.0 * v.exact for v in verdicts]), f"{name}_exact")
