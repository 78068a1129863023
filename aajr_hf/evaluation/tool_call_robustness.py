"""How well an agent calls tools, and how far an adversary can push it: one model's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..objective import PerturbationSet
from ..training.batch import AgentBatch
from ..training.data import encode_examples
from ..training.policy import fixed_seed, frozen_parameters
from .attack import worst_case
from .generation import check_lengths, end_tokens, generate, render_prompts
from .means import Means
from .target import Target
from .tool_call_parsing import AnswerParser
from .tool_call_rows import reference_calls
from .tool_calls import FAILURES, UNREADABLE, Verdict, judge


@dataclass(frozen=True)
class ToolCallSettings:
    """
    Attributes:
        train_epsilon: Radius of the l2 ball of training, in mean norms of the embeddings that are perturbed.
        multiples: Radii of the attack, in multiples of it.
        attack_steps, attack_restarts: Strength of the attack on the reference answer's negative log-likelihood.
        perturbed_tokens: What the attack moves: `prompt`, or what was said by users and tools (`observation`) or one of them
            (`user`, `tool`).
        max_new_tokens: How long an answer may be; None for twice the reference and 32 more.
        batch_size: Examples per forward.
        seed: Of the attack's random starts.
    """

    train_epsilon: float = 0.25
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    attack_steps: int = 20
    attack_restarts: int = 3
    perturbed_tokens: str = "observation"
    max_new_tokens: int | None = None
    batch_size: int = 16
    seed: int = 0

    def progress_steps(self, examples: int) -> int:
        """How often an evaluation reports progress on so many examples."""
        return -(-examples // self.batch_size) * (1 + len(self.multiples))


class ToolCaller:
    """
    A model that is asked, greedily, to call tools.

    Args:
        model: The model; its `generation_config` is replaced, so that nothing of its own changes what it says.
        tokenizer: With a chat template that renders tools and calls.
        rows: Of [`~.tool_call_rows.read_rows`]; all that will be asked.
        max_new_tokens: As in [`ToolCallSettings`].

    Attributes:
        reference_verdicts: What [`judge`] says of the rows' own completions, rendered by the template and read back.

    Raises:
        jinja2.TemplateError: for a chat template that does not render a row.
        ValueError: where a prompt and its answer are longer than what the model reads, and for a template whose
            calls cannot be read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict[str, Any]],
        max_new_tokens: int | None = None,
    ):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_new_tokens = max_new_tokens
        example = next(row for row in rows if reference_calls(row["completion"]))
        # Some templates end a call by another token than a text.
        self.ends = sorted({*end_tokens(model, tokenizer), *end_tokens(model, tokenizer, example)})
        self.parser = AnswerParser(tokenizer, self.ends)
        model.generation_config = GenerationConfig(
            pad_token_id=tokenizer.pad_token_id, eos_token_id=self.ends, do_sample=False
        )
        prompts, references = render_prompts(tokenizer, rows)
        check_lengths(model, prompts, self._budgets(references), "leave such rows out, or lower `--max_new_tokens`")
        self.reference_verdicts = [self._verdict(*each) for each in zip(rows, prompts, references, strict=True)]
        of_calls = [
            v for v, row in zip(self.reference_verdicts, rows, strict=True) if reference_calls(row["completion"])
        ]
        if all(verdict.failure in UNREADABLE for verdict in of_calls):
            raise ValueError(
                "of no answer, as the chat template renders it, the calls can be read back: the template has to render "
                "`tool_calls`, in a format that TRL or this package knows"
            )

    def answer(self, rows: list[dict[str, Any]], deltas: Tensor | None = None) -> list[Verdict]:
        """
        What the model's answers to some rows are worth.

        Args:
            deltas: (B, L, d), by which the embeddings of each prompt are moved, if given.
        """
        prompts, references = render_prompts(self.tokenizer, rows)
        budgets = self._budgets(references)
        said = generate(self.model, self.tokenizer.pad_token_id, prompts, deltas, max(budgets))
        return [
            # As whoever runs out of tokens sees it: no answer, whatever it says so far.
            self._verdict(row, prompt, tokens) if self._ended(tokens[:budget]) else Verdict("unfinished", False)
            for row, prompt, tokens, budget in zip(rows, prompts, said, budgets, strict=True)
        ]

    def _budgets(self, references: list[list[int]]) -> list[int]:
        return [self.max_new_tokens or 2 * len(reference) + 32 for reference in references]

    def _ended(self, tokens: list[int]) -> bool:
        return any(token in self.ends for token in tokens)

    def _verdict(self, row: dict[str, Any], prompt: list[int], tokens: list[int]) -> Verdict:
        """Of the tokens up to and with the first that ends an answer, or all."""
        end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        return judge(self.parser(tokens[: end + 1], prompt, row["tools"]), row)


def evaluate_tool_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: ToolCallSettings,
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """
    Measure one agent on rows of [`~.tool_call_rows.read_rows`].

    Answers are decoded greedily, without and with a perturbation of the prompt's embeddings: the one with the highest
    negative log-likelihood of the row's completion that the attack finds within each radius. [`judge`] says what valid
    and exact mean. The attack does not know these two: another perturbation may lower them further.

    Returns:
        In percent `nominal_valid`, `nominal_exact`, and by multiple of the training epsilon `worst_case_valid` and
        `worst_case_exact`; `nominal_nll` and `worst_case_nll`, of the completions, in nats per token; `failures`, by
        multiple and for `nominal`, how many answers are invalid for each reason in [`FAILURES`];
        `reference_valid` and `reference_exact`, of the completions themselves as the template renders them: less than
        100 where the data breaks its own schemas; `embedding_norm` and `examples`.

    Raises:
        ValueError, jinja2.TemplateError: as [`ToolCaller`].
    """
    caller = ToolCaller(model, tokenizer, rows, settings.max_new_tokens)
    batches = list(_batches(model, tokenizer, rows, settings))  # all of them first: a row may have nothing to attack
    totals = Means()
    _add(totals, caller.reference_verdicts, "reference")
    failures: dict[str, dict[str, int]] = {}
    with fixed_seed(model.device, settings.seed), frozen_parameters(model):
        for batch, encoded in batches:
            target = Target(model, encoded)
            totals.add(target.scale, "embedding_norm")
            with torch.no_grad():
                totals.add(target.nll(target.origin), "nominal_nll")
            verdicts = caller.answer(batch)
            _add(totals, verdicts, "nominal")
            _count(failures, "nominal", verdicts)
            on_progress()
            for multiple in settings.multiples:
                delta, nll = worst_case(
                    target.nll,
                    target.origin,
                    PerturbationSet(multiple * settings.train_epsilon * target.scale),
                    mask=target.batch.perturbable,
                    steps=settings.attack_steps,
                    restarts=settings.attack_restarts,
                )
                name = f"{multiple:g}"
                totals.add(nll.detach(), "worst_case_nll", name)
                verdicts = caller.answer(batch, delta.detach())
                _add(totals, verdicts, "worst_case", name)
                _count(failures, name, verdicts)
                on_progress()
    return totals.result() | {"failures": failures, "examples": len(rows)}


def _batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], settings: ToolCallSettings
) -> Iterator[tuple[list[dict[str, Any]], AgentBatch]]:
    for start in range(0, len(rows), settings.batch_size):
        batch = rows[start : start + settings.batch_size]
        inputs = encode_examples(tokenizer, batch, candidates=False, perturbed_tokens=settings.perturbed_tokens)
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        yield batch, AgentBatch.from_inputs(inputs, settings.perturbed_tokens, first=start)


def _add(totals: Means, verdicts: list[Verdict], name: str, *more: str) -> None:
    totals.add(torch.tensor([100.0 * (v.failure is None) for v in verdicts]), f"{name}_valid", *more)
    totals.add(torch.tensor([100.0 * v.exact for v in verdicts]), f"{name}_exact", *more)


def _count(failures: dict[str, dict[str, int]], name: str, verdicts: list[Verdict]) -> None:
    counts = failures.setdefault(name, dict.fromkeys(FAILURES, 0))
    for verdict in verdicts:
        if verdict.failure is not None:
            counts[verdict.failure] += 1
