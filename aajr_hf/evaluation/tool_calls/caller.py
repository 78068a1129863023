"""An agent that is asked to call tools, and what its answers are worth."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..generation import check_lengths, end_tokens, generate, render_prompts
from .judge import UNREADABLE, Verdict, judge
from .parsing import AnswerParser
from .rows import reference_calls


class ToolCaller:
    """
    A model that is asked, greedily, to call tools.

    Args:
        model: The model; its `generation_config` is replaced, so that nothing of its own changes what it says.
        tokenizer: With a chat template that renders tools and calls.
        rows: Of [`read_rows`]; all that will be asked.
        max_new_tokens: Of an answer; None for twice the reference and 32 more.

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
