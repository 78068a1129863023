"""How well an agent does, how far an adversary can push it, and how strongly its logits answer: one model's numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..objective import (
    AscentTrajectory,
    PerturbationSet,
    random_unit_direction,
    spectral_norm,
    squared_amplification,
    trajectory_amplification,
)
from ..training.batch import AgentBatch
from ..training.data import encode_examples
from ..training.policy import AgentPolicy, fixed_seed, forward_ad_ready, frozen_parameters
from ..training.stability import Stability
from .attack import worst_case
from .means import Means
from .membership import add_membership, examples_of
from .other_attacks import OtherAttacks
from .sanity import sanity_rules
from .settings import RobustnessSettings
from .stability import inner_ascent, stability_numbers
from .target import Target, success
from .token_attack import draw_substitutions, number_substitutions


def evaluate_agent(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: RobustnessSettings,
    on_progress: Callable[[], None] = lambda: None,
    transfer_from: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """
    Measure one agent on held-out rows with `prompt`, `completion`, `actions` and `action_costs`.

    Success means the expert's answer, to the token: greedy decoding gives it if every one of its tokens is the most
    likely one after the tokens before it; sampling at temperature 1 gives it with the product of their probabilities,
    which is averaged as it is, without drawing. Worst cases are taken at the perturbation with the highest expected
    system cost that the attack finds.

    Args:
        transfer_from: Model of the attack `transfer`, for which [`check_transfer`] holds.

    Returns:
        `nominal_success`, `sampled_success`, `worst_case_success`, `sampled_worst_case_success` (percent; the latter two
        by multiple of the training epsilon), `nominal_cost`, `worst_case_cost` (expected system cost), `amplification`
        (mean `||J u_t||` of the logits along ascent directions), `amplification_profile` (the same at each point t of the
        ascent), `random_amplification` (along random directions), `spectral_norm`, `embedding_norm` and `examples`;
        `stability` of that ascent ([`stability_numbers`]); of the attacks beside PGA, `attacks` ([`OtherAttacks`]); where some
        were asked for, `sanity` ([`sanity_rules`]); where there is a budget, `membership`: it, and the percent of `examples` that
        are within it `along_ascent` (F_ad) and `everywhere` (F_gamma), see [`add_membership`].

    Raises:
        ValueError: if the attack `transfer` has no model, or the attack `token` finds no numbers.
    """
    if "transfer" in settings.attacks and transfer_from is None:
        raise ValueError("The attack `transfer` needs a model to make its perturbations on.")
    model = model.eval()
    substitutions = number_substitutions(tokenizer, rows) if "token" in settings.attacks else None
    totals, stabilities = Means(), []
    others = OtherAttacks(settings, totals, on_progress, transfer_from)
    with fixed_seed(model.device, settings.seed), frozen_parameters(model), contextlib.ExitStack() as stack:
        if transfer_from is not None:
            stack.enter_context(frozen_parameters(transfer_from.eval()))
        for start, batch in _batches(tokenizer, rows, settings.batch_size, model.device):
            target = Target(model, batch)
            stabilities.append(_measure_batch(target, settings, totals, on_progress))
            trials = None
            if substitutions is not None:
                drawn = enumerate(substitutions[start : start + len(batch)], start)
                trials = [
                    draw_substitutions(all_of_row, settings.token_trials, settings.seed + row)
                    for row, all_of_row in drawn
                ]
            # With random numbers of their own: PGA's are the same whatever else is measured.
            with fixed_seed(model.device, settings.seed + start):
                others.measure(target, trials)
    numbers = totals.result() | {"examples": len(rows)}
    numbers["amplification_profile"] = list(numbers["amplification_profile"].values())
    if settings.budget is not None:
        numbers["membership"] |= {"budget": settings.budget, "examples": examples_of(settings, len(rows))}
    numbers["stability"] = stability_numbers(stabilities)
    rules = sanity_rules(numbers)
    return numbers | ({"sanity": rules} if rules else {})


@torch.no_grad()
def nominal_success(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], batch_size: int = 128
) -> float:
    """Percent of rows that greedy decoding answers as the expert does."""
    model = model.eval()
    found = [
        success(AgentPolicy(model, batch)(), batch)[0]
        for _, batch in _batches(tokenizer, rows, batch_size, model.device)
    ]
    return 100 * float(torch.cat(found).mean())


def _measure_batch(target: Target, settings: RobustnessSettings, totals: Means, on_progress) -> Stability:
    origin, mask = target.origin, target.batch.perturbable
    totals.add(target.scale, "embedding_norm")
    nominal = target.outcome(origin)
    totals.add(100 * nominal.greedy, "nominal_success")
    totals.add(100 * nominal.sampled, "sampled_success")
    totals.add(nominal.cost, "nominal_cost")
    for multiple in settings.multiples:
        ball = PerturbationSet(multiple * settings.train_epsilon * target.scale)
        steps, restarts = settings.attack_steps, settings.attack_restarts
        delta, _ = worst_case(target.cost, origin, ball, mask=mask, steps=steps, restarts=restarts)
        worst = target.outcome(delta)
        totals.add(100 * worst.greedy, "worst_case_success", f"{multiple:g}")
        totals.add(100 * worst.sampled, "sampled_worst_case_success", f"{multiple:g}")
        totals.add(worst.cost, "worst_case_cost", f"{multiple:g}")
        on_progress()
    trajectory, stability = inner_ascent(target, settings)
    _measure_amplification(target, trajectory, settings, totals)
    on_progress()
    return stability


def _measure_amplification(
    target: Target, trajectory: AscentTrajectory, settings: RobustnessSettings, totals: Means
) -> None:
    policy, origin, mask = target.policy, target.origin, target.batch.perturbable
    with forward_ad_ready(target.model), torch.no_grad():
        along_ascent = trajectory_amplification(policy, origin, trajectory).sqrt()
        totals.add(along_ascent, "amplification")
        for t, values in enumerate(along_ascent):
            totals.add(values, "amplification_profile", str(t))
        random = random_unit_direction(origin, mask)
        totals.add(squared_amplification(policy, origin, random).sqrt(), "random_amplification")
    few = torch.arange(min(settings.spectral_examples, len(target.batch)))
    with forward_ad_ready(target.model):
        norms = spectral_norm(
            policy.select(few),
            origin[few],
            iterations=settings.power_iterations,
            mask=mask[few],
        )
    totals.add(norms.detach(), "spectral_norm")
    if settings.budget is not None:
        add_membership(target, trajectory, along_ascent, settings, totals)


def _batches(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], size: int, device: torch.device
) -> Iterator[tuple[int, AgentBatch]]:
    """The rows in batches, each with the index of its first row."""
    for start in range(0, len(rows), size):
        inputs = encode_examples(tokenizer, rows[start : start + size], candidates=True)
        yield start, AgentBatch.from_inputs({name: value.to(device) for name, value in inputs.items()}, "prompt")
