"""
The columns that AAJR adds to TRL's data: which tokens may be perturbed, and which token distinguishes the candidates.
"""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from trl import maybe_convert_to_chatml
from trl.data_utils import common_prefix_length
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from .batch import EXTRA_COLUMNS, missing_tokens_message, perturbable_tokens
from .canonical import canonical_row
from .chat_spans import chat_renderer, said_by, spans_mask
from .incidental import incidental_mask
from .roles import INCIDENTAL, OBSERVED_ROLES

logger = logging.getLogger(__name__)

_PADDING = {"observation_mask": 0, "candidate_tokens": -1, "candidate_costs": 0.0}


class AgentCollator:
    """Collator that pads the columns of [`add_agent_columns`]; the wrapped collator handles all other columns."""

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        plain = [{k: v for k, v in example.items() if k not in EXTRA_COLUMNS} for example in examples]
        output = self.collator(plain)
        for name in EXTRA_COLUMNS:
            if name not in examples[0]:
                continue
            values = [torch.tensor(example[name]) for example in examples]
            if name in ("candidate_position", "radius_factor"):
                output[name] = torch.stack(values)
                continue
            if name == "observation_mask" and "position_ids" in output:  # padding-free: one row
                values = [torch.cat(values)]
            padded = pad_sequence(values, batch_first=True, padding_value=_PADDING[name])
            if name == "observation_mask":
                padded = torch.nn.functional.pad(padded, (0, output["input_ids"].shape[1] - padded.shape[1]))
            output[name] = padded
        return output


def add_agent_columns(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    perturbed_tokens: str,
    candidates: bool,
    chat_template: str | None = None,
    first: int = 0,
) -> Dataset | IterableDataset:
    """
    Add columns to a dataset of conversations that is not tokenized yet: `observation_mask` (1 on tokens of the texts
    that `perturbed_tokens` selects, without markup) and, for the expected system cost, `candidate_position`,
    `candidate_tokens` and `candidate_costs`. The conversations are messages, or for candidates prompts and
    completions. Error messages count examples from `first`.

    Raises:
        ValueError: if a needed column is missing, or one token cannot distinguish the candidates.
    """
    names = column_names(dataset)
    needed = ["prompt", "completion", "actions", "action_costs"] if candidates else []
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(
            f"`system_loss=expected_cost` needs the dataset column{'s' if len(missing) > 1 else ''} "
            f"{', '.join(missing)}, but the dataset has only {', '.join(names)}."
        )

    def add(example: dict[str, Any], index: int) -> dict[str, Any]:
        return agent_columns(example, first + index, tokenizer, perturbed_tokens, candidates, chat_template)

    if isinstance(dataset, Dataset):
        return dataset.map(add, with_indices=True, desc="Locating observations and candidate actions")
    return dataset.map(add, with_indices=True)


def agent_columns(
    example: dict[str, Any],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    perturbed_tokens: str,
    candidates: bool,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """The columns of [`add_agent_columns`] for one example; error messages name it by `index`."""
    example = maybe_convert_to_chatml(copy.deepcopy(example))
    begun = example.get("prompt", example.get("messages"))
    if not isinstance(begun, list):
        raise ValueError(
            f"Observations and actions need conversational examples (messages), but example {index} is text."
        )
    render = chat_renderer(tokenizer, example, chat_template)
    messages = begun + example.get("completion", [])
    columns = {}
    if perturbed_tokens in OBSERVED_ROLES:
        text, spans = said_by(render, messages, OBSERVED_ROLES[perturbed_tokens])
        mask = spans_mask(tokenizer, text, spans)
        if perturbed_tokens == INCIDENTAL:
            mask = incidental_mask(tokenizer, canonical_row(example), text, spans)
        columns["observation_mask"] = mask
    if candidates:
        rendered = [render(begun + [{"role": "assistant", "content": action}]) for action in example["actions"]]
        position, tokens = distinguishing_tokens(tokenizer, render(messages), rendered, index)
        columns["candidate_position"] = position
        columns["candidate_tokens"] = tokens
        columns["candidate_costs"] = _checked_costs(example, index)
    return columns


class PairCollator(AgentCollator):
    """The same for pairs of preferences, of which TRL's collator makes rows: the chosen ones, then the rejected ones."""

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        output = super().__call__(examples)
        if "observation_mask" in output:
            output["observation_mask"] = output["observation_mask"].repeat(2, 1)
        return output


def add_pair_columns(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, perturbed_tokens: str
) -> Dataset | IterableDataset:
    """
    Add the column `observation_mask` of [`add_agent_columns`] to tokenized pairs of preferences. It covers the prompt,
    which both completions share.
    """

    def add(example: dict[str, Any], index: int) -> dict[str, Any]:
        chosen = example | {"completion": example["chosen"]}
        mask = agent_columns(chosen, index, tokenizer, perturbed_tokens, candidates=False)["observation_mask"]
        return {"observation_mask": mask[: len(example["prompt_ids"])]}

    if isinstance(dataset, Dataset):
        return dataset.map(add, with_indices=True, desc="Locating observations")
    return dataset.map(add, with_indices=True)


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """
    The dataset's columns. In a streamed dataset they may be unknown before its first row.

    Raises:
        ValueError: if there is no row.
    """
    if (first := next(iter(dataset), None)) is None:
        raise ValueError("The data have no rows that can be trained on: give other data.")
    return dataset.column_names or list(first)


def cut_columns(dataset: Dataset | IterableDataset, keep_end: bool) -> Dataset | IterableDataset:
    """Cut the column `observation_mask` in the same way as TRL has cut the tokens at `max_length`."""
    if "observation_mask" not in column_names(dataset):
        return dataset

    def cut(example: dict[str, Any]) -> dict[str, Any]:
        mask, kept = example["observation_mask"], len(example["input_ids"])
        return {"observation_mask": mask[-kept:] if keep_end else mask[:kept]}

    return dataset.map(cut)


def distinguishing_tokens(
    tokenizer: PreTrainedTokenizerBase, expert: str, rendered: list[str], index: int
) -> tuple[int, list[int]]:
    """
    Return the first position at which the rendered candidates differ, as the index of the logits that predict it, and
    the token of each candidate at this position.

    Raises:
        ValueError: if there are fewer than two candidates, two candidates share this token, or the expert's answer
            differs from all candidates before this position.
    """
    if len(rendered) < 2:
        raise ValueError(f"Example {index} has {len(rendered)} `actions`: the expected cost needs at least two.")
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    shortest = min(map(len, ids))
    position = next((j for j in range(shortest) if len({row[j] for row in ids}) > 1), None)
    tokens = [] if position is None else [row[position] for row in ids]
    if len(set(tokens)) < len(ids):
        raise ValueError(
            f"Two `actions` of example {index} share the first token at which the actions differ, so one token cannot "
            "distinguish them: begin the actions with words that have different first tokens."
        )
    if tokenizer(expert, add_special_tokens=False)["input_ids"][:position] != ids[0][:position]:
        raise ValueError(
            f"The completion of example {index} differs from all its `actions` before the actions differ from each "
            "other: begin the actions like the completion."
        )
    return position - 1, tokens


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    *,
    candidates: bool,
    perturbed_tokens: str = "prompt",
) -> dict[str, Tensor]:
    """
    Encode conversational prompt/completion rows as one padded batch, as the trainer's collator does: `input_ids`,
    `attention_mask`, `labels`, with `candidates` the columns of the expected cost, and the mask for
    `perturbed_tokens`.
    """
    examples = []
    for index, row in enumerate(rows):
        render = chat_renderer(tokenizer, row)
        texts = [render(row["prompt"], add_generation_prompt=True), render(row["prompt"] + row["completion"])]
        prompt, ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        start = common_prefix_length(prompt, ids)
        columns = agent_columns(row, index, tokenizer, perturbed_tokens, candidates)
        examples.append({"input_ids": ids, "labels": [-100] * start + ids[start:], **columns})
    return AgentCollator(DataCollatorForLanguageModeling(tokenizer.pad_token_id))(examples)


def check_examples(dataset: Dataset, perturbed_tokens: str, first: int = 0) -> None:
    """
    Raise ValueError for the first prepared example that has no perturbable or no action token, or whose candidates lie
    outside the completion; the message counts examples from `first`.
    """
    columns = [name for name in ("labels", "observation_mask", "candidate_position") if name in dataset.column_names]
    unmoved = []
    for row, example in enumerate(dataset.select_columns(columns), first):
        labels = example["labels"]
        if all(label == -100 for label in labels[1:]):
            raise ValueError(missing_tokens_message("action", perturbed_tokens, row))
        inputs = {name: torch.tensor([example[name]]) for name in columns if name != "candidate_position"}
        if not perturbable_tokens(inputs, perturbed_tokens).any():
            if perturbed_tokens == INCIDENTAL:
                unmoved.append(row)
                continue
            if all(label != -100 for label in labels):
                raise ValueError(
                    f"In example {row} every token is an action, so none is left to perturb: set "
                    "`assistant_only_loss` to true (messages), or `completion_only_loss` (prompts and completions), "
                    "or `perturbed_tokens` to all."
                )
            raise ValueError(missing_tokens_message("perturbable", perturbed_tokens, row))
        position = example.get("candidate_position")
        if position is not None and (position + 1 >= len(labels) or labels[position + 1] == -100):
            raise ValueError(
                f"The candidate actions of example {row} differ outside its completion: raise `max_length` if the "
                "completion is cut off."
            )
    if len(unmoved) == len(dataset):
        raise ValueError(missing_tokens_message("perturbable", perturbed_tokens, first))
    if unmoved:
        logger.warning(
            f"{len(unmoved)} of {len(dataset)} training examples have no word of which it is known that the call does not use "
            f"it (the first is example {unmoved[0]}): the adversary moves nothing in them."
        )


def _checked_costs(example: dict[str, Any], index: int) -> list[float]:
    costs = [float(cost) for cost in example["action_costs"]]
    if len(costs) != len(example["actions"]) or not all(map(math.isfinite, costs)):
        raise ValueError(
            f"`action_costs` of example {index} must hold one finite number for each of its "
            f"{len(example['actions'])} `actions`; got {example['action_costs']}."
        )
    return costs
