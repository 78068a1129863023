"""Batches of rows that have about the same length."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..training.data.batch import AgentBatch, missing_tokens_message
from ..training.data.collation import encode_examples
from .generation import template_ends

logger = logging.getLogger(__name__)


def batches_by_length(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], size: int
) -> Iterator[list[int]]:
    """Yield batches of row numbers, sorted by the number of tokens, so that batches have little padding."""
    lengths = encode_examples(tokenizer, rows, candidates=False)["attention_mask"].sum(dim=1)
    order = lengths.argsort(stable=True).tolist()
    for start in range(0, len(order), size):
        yield order[start : start + size]


def read_batch(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    perturbed_tokens: str,
    device: torch.device,
    *,
    candidates: bool = True,
    first: int = 0,
) -> AgentBatch:
    """
    Encode rows as one batch. White space that the chat template writes after the end of an answer, such as the line
    break after `<|im_end|>` in ChatML, does not belong to the action: no generated answer gets so far.

    Args:
        perturbed_tokens: Which tokens the adversary moves, as in `AAJRConfig`.
        candidates: Whether the rows have `actions` and `action_costs`.
        first: Number of the first row, used in error messages.

    Raises:
        ValueError: for a row without a token to perturb or to predict, and for candidates that no single token can
            distinguish.
    """
    inputs = encode_examples(tokenizer, rows, candidates=candidates, perturbed_tokens=perturbed_tokens)
    inputs["labels"] = _without_tail(inputs["labels"], template_ends(tokenizer))
    inputs = {name: value.to(device) for name, value in inputs.items()}
    return AgentBatch.from_inputs(inputs, perturbed_tokens, first=first)


def check_moved(batches: Iterable[tuple[list[int], AgentBatch]], perturbed_tokens: str) -> None:
    """
    Check that the adversary can move something in the rows of some batches, which are given with the rows' numbers, and
    warn if it can move nothing in some of them.

    Raises:
        ValueError: if it can move nothing in any row.
    """
    moved = {
        n: m for numbers, batch in batches for n, m in zip(numbers, batch.perturbable.any(dim=1).tolist(), strict=True)
    }
    unmoved = sorted(number for number, is_moved in moved.items() if not is_moved)
    if len(unmoved) == len(moved):
        raise ValueError(missing_tokens_message("perturbable", perturbed_tokens, unmoved[0]))
    if unmoved:
        logger.warning(
            f"The adversary moves nothing in {len(unmoved)} of {len(moved)} rows (the first is row {unmoved[0]}), because no "
            "word of them is known to be incidental."
        )


def _without_tail(labels: Tensor, ends: set[int]) -> Tensor:
    """Ignore the labels after the last token of each row that ends an answer."""
    is_end = torch.isin(labels, torch.tensor(sorted(ends), dtype=labels.dtype))
    from_here_on = is_end.flip(1).cumsum(dim=1).flip(1) > 0  # an end comes here or later
    return labels.masked_fill(~from_here_on & is_end.any(dim=1, keepdim=True), -100)
