"""Generate text with a model and a key-value cache, as in deployment, optionally from perturbed prompts."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from ..training.data.template import template_of


def render_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> tuple[list[list[int]], list[list[int]]]:
    """
    Render rows with the chat template. A row's `tools` (a list) are rendered, too, if it has any.

    Returns:
        For each row, the tokens of the prompt, up to where the answer begins, and the tokens that the template writes
        after them for the row's completion.

    Raises:
        jinja2.TemplateError: if the chat template does not render a row.
    """
    prompts, references = [], []
    for row in rows:
        render = functools.partial(tokenizer.apply_chat_template, tools=row.get("tools"), return_dict=False)
        said = template_of(tokenizer).adapted(row["prompt"] + row["completion"])
        prompt = render(said[: len(row["prompt"])], add_generation_prompt=True)
        whole = render(said)
        prompts.append(prompt)
        references.append(whole[common_prefix_length(prompt, whole) :])
    return prompts, references


def check_lengths(model: PreTrainedModel, prompts: list[list[int]], budgets: list[int], remedy: str) -> None:
    """
    Check that each prompt and its answer fit into the model's context.

    Raises:
        ValueError: if they are longer than the context; the message ends with the `remedy`.
    """
    longest = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ValueError(
            f"A prompt and its answer take {longest} tokens, and the model's context has {limit}: {remedy}."
        )


def generate(
    model: PreTrainedModel, pad_token: int, prompts: list[list[int]], deltas: Tensor | None, max_new_tokens: int
) -> list[list[int]]:
    """
    Generate an answer to each prompt, decoded as the model's `generation_config` says. The returned tokens may
    continue after the end of an answer.

    Args:
        prompts: B lists of tokens.
        deltas: (B, L, d), added to the embeddings of each prompt from its first token on; positions after the end of
            the prompt are ignored. None for no perturbation.
    """
    device = model.device
    # Pad on the left, so that every prompt ends where its answer begins.
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
    Return the tokens that end an answer: the end tokens of model and tokenizer, and the tokens that the template writes
    after an answer, which many tokenizers do not list. After a short text, these are all tokens of markup, special or
    not. After the row's completion, it is only the last special token, because a call itself can end with markup.
    """
    config = model.generation_config
    known = [] if config is None or config.eos_token_id is None else config.eos_token_id
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    # `all_special_ids` is not used, because it lists only special tokens that have a role.
    added = tokenizer.added_tokens_decoder
    if row is not None:
        written = [
            token for token in render_prompts(tokenizer, [row])[1][0] if token in added and added[token].special
        ]
        return sorted(ends | set(written[-1:]))
    return sorted(ends | template_ends(tokenizer))


def template_ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens of markup that the chat template writes after a short answer."""
    row = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    added, after = tokenizer.added_tokens_decoder, reversed(render_prompts(tokenizer, [row])[1][0])
    written = itertools.takewhile(lambda token: token in added or not tokenizer.decode([token]).strip(), after)
    return set(written) & set(added)


def end_mark(tokenizer: PreTrainedTokenizerBase) -> str:
    """
    Return the text with which the template ends an answer, if this text is not a token of its own: for a tokenizer
    without the token `<|im_end|>`, a template in ChatML ends answers with several tokens that together read so. Return
    an empty text if there is none.
    """
    said = "\U000f0000"  # which no template writes
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    mark = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(said)[2].lstrip()
    for token in tokenizer.added_tokens_decoder.values():
        mark = mark.partition(token.content)[0]
    return mark.strip()


def end_of_answer(tokenizer: PreTrainedTokenizerBase, tokens: list[int], ends: list[int], mark: str) -> int | None:
    """Return the index of the first token of `ends`, or of the token that completes the `mark`; None without either."""
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    if not mark or mark not in decoded(tokenizer, tokens[:end]):
        return end
    return next(i for i in range(len(tokens)) if mark in decoded(tokenizer, tokens[: i + 1]))


def decoded(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Return the text of tokens as it is, with special tokens and all spaces."""
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


@contextlib.contextmanager
def perturbed_prompts(model: PreTrainedModel, delta: Tensor | None) -> Iterator[None]:
    """
    Add `delta` (B, L, d) to the embeddings in the first forward pass inside the context, which is the pass over the
    prompt, as `AgentPolicy` does. The tokens of the answer are not perturbed. `inputs_embeds` is not used, because
    some models do not accept it and others treat it differently from `input_ids`.
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
    """Return the first `length` rows (length, d), padded with zeros."""
    return torch.nn.functional.pad(rows[:length], (0, 0, 0, max(length - len(rows), 0)))
