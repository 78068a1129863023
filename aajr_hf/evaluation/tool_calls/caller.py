"""Ask an agent to call tools, and judge its answers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..generation import check_lengths, end_mark, end_of_answer, end_tokens, generate, render_prompts
from .judge import UNREADABLE, Answer, Verdict, judge
from .parsing import AnswerParser
from .rows import reference_calls


class ToolCaller:
    """
    A model that calls tools, with greedy decoding.

    Args:
        model: The model. Its `generation_config` is replaced, so that its own settings do not change the answers.
        tokenizer: Tokenizer with a chat template that renders tools and calls.
        rows: All rows of the evaluation, from [`read_rows`].
        max_new_tokens: Length limit of an answer; None for twice the length of the reference answer, plus 32.

    Attributes:
        reference_verdicts: Verdicts of [`judge`] on the rows' own completions, rendered by the template and parsed
            again.

    Raises:
        jinja2.TemplateError: if the chat template does not render a row.
        ValueError: if a prompt and its answer are longer than the model's context, or if the calls that the template
            renders cannot be parsed.
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
        # Some templates end calls and plain answers with different tokens.
        self.ends = sorted({*end_tokens(model, tokenizer), *end_tokens(model, tokenizer, example)})
        self.mark = end_mark(tokenizer)
        self.parser = AnswerParser(tokenizer, self.ends, self.mark)
        model.generation_config = GenerationConfig(
            pad_token_id=tokenizer.pad_token_id, eos_token_id=self.ends, do_sample=False
        )
        prompts, references = render_prompts(tokenizer, rows)
        check_lengths(model, prompts, self._budgets(references), "leave such rows out, or lower `--max_new_tokens`")
        self.reference_verdicts = [
            judge(self._read(*each), each[0]) for each in zip(rows, prompts, references, strict=True)
        ]
        of_calls = [
            v for v, row in zip(self.reference_verdicts, rows, strict=True) if reference_calls(row["completion"])
        ]
        if all(verdict.failure in UNREADABLE for verdict in of_calls):
            raise ValueError(
                "the calls that the chat template renders cannot be parsed: give a model whose template renders "
                "`tool_calls` in a format that TRL or this package supports"
            )

    def answer(self, rows: list[dict[str, Any]], deltas: Tensor | None = None) -> list[Verdict]:
        """
        Generate answers to some rows, and judge them.

        Args:
            deltas: Perturbations (B, L, d) of the embeddings of each prompt, or None.
        """
        return [judge(answer, row) for answer, row in zip(self.answers(rows, deltas), rows, strict=True)]

    def answers(
        self, rows: list[dict[str, Any]], deltas: Tensor | None = None, others: list[dict[str, Any]] | None = None
    ) -> list[Answer]:
        """
        Generate answers to some rows, and read their calls.

        Args:
            deltas: As for [`answer`].
            others: The same rows with other completions, for which there must also be room within the length limit.

        Raises:
            ValueError: if a prompt and its answer are longer than the model's context.
        """
        prompts, references = render_prompts(self.tokenizer, rows)
        budgets = self._budgets(references)
        if others is not None:
            budgets = list(map(max, budgets, self._budgets(render_prompts(self.tokenizer, others)[1])))
            check_lengths(self.model, prompts, budgets, "leave such rows out, or lower `--max_new_tokens`")
        said = generate(self.model, self.tokenizer.pad_token_id, prompts, deltas, max(budgets))
        return [
            # An answer that reaches the length limit is no answer, whatever it contains so far.
            Answer([], "unfinished") if self._end(tokens[:budget]) is None else self._read(row, prompt, tokens)
            for row, prompt, tokens, budget in zip(rows, prompts, said, budgets, strict=True)
        ]

    def _budgets(self, references: list[list[int]]) -> list[int]:
        return [self.max_new_tokens or 2 * len(reference) + 32 for reference in references]

    def _end(self, tokens: list[int]) -> int | None:
        return end_of_answer(self.tokenizer, tokens, self.ends, self.mark)

    def _read(self, row: dict[str, Any], prompt: list[int], tokens: list[int]) -> Answer:
        """Read the tokens up to and including the end of the answer, or all tokens if there is none."""
        end = self._end(tokens)
        return self.parser(tokens if end is None else tokens[: end + 1], prompt, row["tools"])
