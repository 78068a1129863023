"""Asking a model for text from a cache of keys and values, as whoever deploys it would, its prompts attacked if asked."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length


def render_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> tuple[list[list[int]], list[list[int]]]:
    """
    The tokens of each row's prompt, up to where the answer begins, and those that the template writes after it for the
    row's completion. With the row's `tools`, a list, if it has some.

    Raises:
        jinja2.TemplateError: for a chat template that does not render a row.
    """
    prompts, references = [], []
    for row in rows:
        render = functools.partial(tokenizer.apply_chat_template, tools=row.get("tools"), return_dict=False)
        prompt = render(row["prompt"], add_generation_prompt=True)
        whole = render(row["prompt"] + row["completion"])
        prompts.append(prompt)
        references.append(whole[common_prefix_length(prompt, whole) :])
    return prompts, references


def check_lengths(model: PreTrainedModel, prompts: list[list[int]], budgets: list[int], remedy: str) -> None:
    """
    Raises:
        ValueError: if a prompt and its answer are longer than what the model reads; ends with the `remedy`.
    """
    longest = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ValueError(f"A prompt and its answer take {longest} tokens, and the model reads {limit}: {remedy}.")


def generate(
    model: PreTrainedModel, pad_token: int, prompts: list[list[int]], deltas: Tensor | None, max_new_tokens: int
) -> list[list[int]]:
    """
    The tokens that the model says after each prompt, as its `generation_config` decodes, with whatever stands after the
    end of an answer.

    Args:
        prompts: B lists of tokens.
        deltas: (B, L, d), added to the embeddings of each prompt from its first token on; rows beyond the prompt are
            left out. None for no perturbation.
    """
    device = model.device
    # On the left, so that every prompt ends where its answer begins.
    ids = _padded([torch.tensor(prompt) for prompt in prompts], pad_token).to(device)
    mask = _padded([torch.ones(len(prompt), dtype=torch.long) for prompt in prompts], 0).to(device)
    delta = None
    if deltas is not None:
        delta = _padded([_of_length(row, len(prompt)) for row, prompt in zip(deltas, prompts, strict=True)], 0.0)
    with perturbed_prompts(model, delta), torch.no_grad():
        output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens)
    return output[:, ids.shape[1] :].tolist()


def end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any] | None = None
) -> list[int]:
    """
    The tokens that end an answer: what model and tokenizer call so, and the last special token that the template
    writes after an answer (the row's, or some text), which many tokenizers do not call so.
    """
    config = model.generation_config
    known = [] if config is None or config.eos_token_id is None else config.eos_token_id
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    if row is None:
        row = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    # Not `all_special_ids`, which lists those with a role alone.
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = [number for number in render_prompts(tokenizer, [row])[1][0] if number in special]
    return sorted(ends | set(written[-1:]))


@contextlib.contextmanager
def perturbed_prompts(model: PreTrainedModel, delta: Tensor | None) -> Iterator[None]:
    """
    Inside, the first forward (that of the prompt) adds `delta` (B, L, d) to what the first layer receives, as
    `AgentPolicy` does; the answer's own tokens stay as they are. Not by `inputs_embeds`, which some models do not take,
    and others treat unlike `input_ids`.
    """
    if delta is None:
        yield
        return
    remaining = [delta]

    def perturb(module, args, output):
        return output + remaining.pop().to(output.dtype) if remaining else output

    handle = model.get_input_embeddings().register_forward_hook(perturb)
    try:
        yield
    finally:
        handle.remove()


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")


def _of_length(rows: Tensor, length: int) -> Tensor:
    """The first rows (length, d), zeros where there are fewer."""
    return torch.nn.functional.pad(rows[:length], (0, 0, 0, max(length - len(rows), 0)))
