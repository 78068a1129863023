"""How well an agent does, how far an adversary can push it, and how strongly its logits answer: one model's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..objective import (
    PerturbationSet,
    projected_gradient_ascent,
    random_unit_direction,
    spectral_norm,
    squared_amplification,
    trajectory_amplification,
)
from ..training.batch import AgentBatch
from ..training.data import encode_examples
from ..training.policy import AgentPolicy, embedding_norm, forward_ad_ready, frozen_parameters
from ..training.system_losses import expected_cost
from .attack import worst_case


@dataclass(frozen=True)
class RobustnessSettings:
    """
    Attributes:
        train_epsilon: Radius of the l2 ball of training, in mean norms of the example's prompt embeddings.
        multiples: Radii of the attack, in multiples of it.
        attack_steps, attack_restarts: Strength of the attack on the expected system cost.
        ascent_steps: Steps of the ascent along which amplification is measured, at the training radius.
        spectral_examples, power_iterations: Examples and iterations of the spectral norm.
        batch_size: Examples per forward.
        seed: Of the attack's random starts and of the random directions.
    """

    train_epsilon: float = 0.25
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    attack_steps: int = 20
    attack_restarts: int = 3
    ascent_steps: int = 3
    spectral_examples: int = 64
    power_iterations: int = 10
    batch_size: int = 128
    seed: int = 0

    def progress_steps(self, examples: int) -> int:
        """How often [`evaluate_agent`] reports progress on so many examples."""
        return -(-examples // self.batch_size) * (len(self.multiples) + 1)


def evaluate_agent(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: RobustnessSettings,
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """
    Measure one agent on held-out rows with `prompt`, `completion`, `actions` and `action_costs`.

    Success means the expert's answer, to the token: greedy decoding gives it if every one of its tokens is the most
    likely one after the tokens before it; sampling at temperature 1 gives it with the product of their probabilities,
    which is averaged as it is, without drawing. Worst cases are taken at the perturbation with the highest expected
    system cost that the attack finds.

    Returns:
        `nominal_success`, `sampled_success`, `worst_case_success`, `sampled_worst_case_success` (percent; the latter two
        by multiple of the training epsilon), `nominal_cost`, `worst_case_cost` (expected system cost), `amplification`
        (mean `||J u_t||` of the logits along ascent directions), `random_amplification` (along random directions),
        `spectral_norm`, `embedding_norm` and `examples`.
    """
    model = model.eval()
    totals = _Means()
    generator_state = torch.get_rng_state()
    torch.manual_seed(settings.seed)
    try:
        with frozen_parameters(model):
            for batch in _batches(tokenizer, rows, settings.batch_size, model.device):
                _measure_batch(model, batch, settings, totals, on_progress)
    finally:
        torch.set_rng_state(generator_state)
    return totals.result() | {"examples": len(rows)}


@torch.no_grad()
def nominal_success(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], batch_size: int = 128
) -> float:
    """Percent of rows that greedy decoding answers as the expert does."""
    model = model.eval()
    found = [
        success(AgentPolicy(model, batch)(), batch)[0] for batch in _batches(tokenizer, rows, batch_size, model.device)
    ]
    return 100 * float(torch.cat(found).mean())


class _Means:
    """Means over examples, collected batch by batch; names with a multiple become objects by multiple."""

    def __init__(self):
        self._sums: dict[tuple[str, str | None], float] = {}
        self._counts: dict[tuple[str, str | None], int] = {}

    def add(self, name: str, values: Tensor, multiple: float | None = None) -> None:
        key = (name, None if multiple is None else f"{multiple:g}")
        self._sums[key] = self._sums.get(key, 0.0) + float(values.double().sum())
        self._counts[key] = self._counts.get(key, 0) + values.numel()

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for (name, multiple), total in self._sums.items():
            mean = total / self._counts[name, multiple]
            if multiple is None:
                result[name] = mean
            else:
                result.setdefault(name, {})[multiple] = mean
        return result


def _measure_batch(
    model: PreTrainedModel, batch: AgentBatch, settings: RobustnessSettings, totals: _Means, on_progress
) -> None:
    policy = AgentPolicy(model, batch)
    state = policy.embeddings()
    origin = torch.zeros_like(state)
    scale = embedding_norm(state, batch)
    totals.add("embedding_norm", scale)

    def cost(delta: Tensor) -> Tensor:
        return expected_cost(policy(delta), batch)

    def score(delta: Tensor, prefix: str, multiple: float | None = None) -> None:
        with torch.no_grad():
            logits = policy(delta)
        greedy, sampled = success(logits, batch)
        worst = prefix == "worst_case"
        totals.add(f"{prefix}_success", 100 * greedy, multiple)
        totals.add("sampled_worst_case_success" if worst else "sampled_success", 100 * sampled, multiple)
        totals.add(f"{prefix}_cost", expected_cost(logits, batch), multiple)

    score(origin, "nominal")
    for multiple in settings.multiples:
        ball = PerturbationSet(multiple * settings.train_epsilon * scale)
        delta, _ = worst_case(
            cost,
            origin,
            ball,
            mask=batch.perturbable,
            steps=settings.attack_steps,
            restarts=settings.attack_restarts,
        )
        score(delta, "worst_case", multiple)
        on_progress()

    radius = settings.train_epsilon * scale
    trajectory = projected_gradient_ascent(
        cost,
        origin,
        PerturbationSet(radius),
        steps=settings.ascent_steps,
        step_size=2.5 * radius / settings.ascent_steps,
        step_rule="normalized",
        mask=batch.perturbable,
        final_loss=False,
    )
    with forward_ad_ready(model), torch.no_grad():
        totals.add("amplification", trajectory_amplification(policy, origin, trajectory).sqrt())
        random = random_unit_direction(origin, batch.perturbable)
        totals.add("random_amplification", squared_amplification(policy, origin, random).sqrt())
    few = torch.arange(min(settings.spectral_examples, len(batch)))
    with forward_ad_ready(model):
        norms = spectral_norm(
            policy.select(few),
            origin[few],
            iterations=settings.power_iterations,
            mask=batch.perturbable[few],
        )
    totals.add("spectral_norm", norms.detach())
    on_progress()


def success(logits: Tensor, batch: AgentBatch) -> tuple[Tensor, Tensor]:
    """
    Whether greedy decoding gives the labelled answer, and the probability that sampling at temperature 1 does: two
    tensors (B,), from the logits (B, A, V) after the answer's own tokens.
    """
    labels = batch.action_labels[..., None]
    greedy = (logits.argmax(dim=-1, keepdim=True) == labels).squeeze(-1) | ~batch.action_mask
    log_probs = logits.log_softmax(dim=-1).gather(-1, labels).squeeze(-1).masked_fill(~batch.action_mask, 0)
    return greedy.all(dim=1).float(), log_probs.sum(dim=1).exp()


def _batches(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], size: int, device: torch.device
) -> Iterator[AgentBatch]:
    for start in range(0, len(rows), size):
        inputs = encode_examples(tokenizer, rows[start : start + size], candidates=True)
        yield AgentBatch.from_inputs({name: value.to(device) for name, value in inputs.items()}, "prompt")
