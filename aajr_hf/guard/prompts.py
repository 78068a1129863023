"""The tokens of a message, which the sender writes into a cache, and those of its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..evaluation.generation import render_prompts
from ..training.data.template import template_of


@dataclass(frozen=True)
class SharedPrompt:
    """
    Attributes:
        message: Tokens of the prompt up to the end of the message. The sender reads them.
        own: The other tokens of the prompt, which the reader reads as text.
        reference: Tokens that the chat template writes for the right answer.
    """

    message: list[int]
    own: list[int]
    reference: list[int]


def shared_prompts(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> list[SharedPrompt]:
    """
    Render rows of [`message_row`] with the chat template. Message and own tokens together are the tokens of the whole
    prompt.

    Raises:
        ValueError: if the template changes the message, or the tokenizer joins its last word with the next one.
        jinja2.TemplateError: if the chat template does not render a row.
    """
    prompts, references = render_prompts(tokenizer, rows)
    found = []
    for row, prompt, reference in zip(rows, prompts, references, strict=True):
        text = template_of(tokenizer).render(template_of(tokenizer).adapted(row["prompt"]), add_generation_prompt=True)
        said = row["prompt"][-1]["content"]
        if said not in text:
            raise ValueError(
                "The chat template changes what users say, so that no cache can be shared: use another one."
            )
        end = text.rindex(said) + len(row["message"])
        message = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
        if prompt[: len(message)] != message:
            raise ValueError(
                "The tokenizer joins the last word of a message with the next word, so that no cache can be shared: use a model "
                "whose tokenizer splits texts at spaces."
            )
        found.append(SharedPrompt(message, prompt[len(message) :], reference))
    return found
