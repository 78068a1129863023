"""Finds the texts of users and tools in a rendered conversation, for any markup of the chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from .canonical import canonical_row
from .template import template_of

# Marks of the begin and the end of the i-th text: two characters that no text contains and no template knows.
_FIRST_MARK = 0xF0000
_MARK = re.compile("[\U000f0000-\U000ffffd]")

Messages = list[dict[str, Any]]


def chat_renderer(
    tokenizer: PreTrainedTokenizerBase, example: dict[str, Any], chat_template: str | None = None
) -> Callable[..., str]:
    """
    Return a function from canonical messages to text, as TRL renders it, with the tools and the template arguments of
    the example.
    """
    tools = canonical_row({"messages": [{"role": "user", "content": ""}], "tools": example.get("tools")})["tools"]
    options = {"chat_template": chat_template, "tools": tools, **(example.get("chat_template_kwargs") or {})}
    template = template_of(tokenizer, chat_template)

    def render(messages: Messages, **more) -> str:
        return tokenizer.apply_chat_template(template.adapted(messages), tokenize=False, **options, **more)

    return render


def said_by(
    render: Callable[[Messages], str], messages: Messages, roles: Collection[str]
) -> tuple[str, list[tuple[int, int]]]:
    """
    Return the rendered conversation and the spans `[begin, end)` of characters that hold the texts of the given roles,
    without the template's markup and without the white space around a message, which templates strip.

    The conversation is rendered twice, the second time with marks around these texts. Without the marks, both
    renderings must be equal. This detects templates whose markup depends on the texts.

    Raises:
        ValueError: if the renderings differ.
    """
    text = render(messages)
    count = 0

    def mark(said: Any) -> Any:
        nonlocal count
        if isinstance(said, list):  # parts of one message
            return [part | {"text": mark(part["text"])} if part.get("text") else part for part in said]
        if not isinstance(said, str) or not said.strip():
            return said
        core = said.strip()
        begin, end = chr(_FIRST_MARK + 2 * count), chr(_FIRST_MARK + 2 * count + 1)
        count += 1
        return said.replace(core, f"{begin}{core}{end}", 1)

    marked = [m | {"content": mark(m.get("content"))} if m["role"] in roles else m for m in messages]
    spans, opened, plain = [], {}, []
    length, last = 0, 0
    rendering = render(marked)
    for found in _MARK.finditer(rendering):
        plain.append(rendering[last : found.start()])
        length, last = length + len(plain[-1]), found.end()
        index, is_end = divmod(ord(found.group()) - _FIRST_MARK, 2)
        if not is_end:
            opened[index] = length
        elif index in opened:
            spans.append((opened.pop(index), length))
    plain.append(rendering[last:])
    if "".join(plain) != text or opened:
        said = next((str(m.get("content")) for m in messages if m["role"] in roles), "")
        raise ValueError(
            "`perturbed_tokens` user, tool or observation needs a chat template that renders messages the same way "
            f"each time, whatever they say, but this one does not ({said[:40]!r}): set `perturbed_tokens` to prompt."
        )
    return text, spans


def spans_mask(tokenizer: PreTrainedTokenizerBase, text: str, spans: list[tuple[int, int]]) -> list[int]:
    """
    Return 1 for each token of `text`, a rendered conversation, that lies inside one of the spans, and 0 for the
    others.

    Raises:
        ValueError: if the tokenizer does not return the positions of its tokens in the text.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            "`perturbed_tokens` user, tool or observation needs a fast tokenizer, which returns the positions of its "
            f"tokens in the text, but {type(tokenizer).__name__} is not fast: set `perturbed_tokens` to prompt."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [
        int(end > begin and any(begin >= s and end <= e for s, e in spans)) for begin, end in encoded["offset_mapping"]
    ]
