"""Parse the tool calls in the tokens of an answer, in the format of the model's chat template."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import add_response_schema, parse_response

from ..generation import decoded
from .judge import JSON, Answer, read_call

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_LIST = "[TOOL_CALLS]"
_PYTHON = "<|python_tag|>"


class AnswerParser:
    """
    Parser of answers. It uses TRL's `parse_response` if there is a `response_template`: the tokenizer's own, or the
    one that TRL has for its chat template. For other tokenizers, it uses [`parse_text`].

    Args:
        tokenizer: The tokenizer; it is not changed.
        ends: The tokens that end an answer.
        mark: Text that ends an answer, if no single token does (see [`end_mark`]).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: list[int], mark: str = ""):
        self.tokenizer, self.ends, self.mark = copy.copy(tokenizer), set(ends), mark
        if getattr(tokenizer, "response_template", None) is None:
            with contextlib.suppress(ValueError):  # a template that TRL does not know
                add_response_schema(self.tokenizer)
        self.template = getattr(self.tokenizer, "response_template", None)
        # JSON marks numbers itself. If TRL were given the tools, it would also turn the text "7" into a number.
        self.typed = (
            self.template is not None and self.template["fields"].get("tool_calls", {}).get("content") == "json"
        )

    def __call__(self, tokens: list[int], prompt: list[int], tools: list[dict[str, Any]] | None) -> Answer:
        """
        Parse an answer.

        Args:
            tokens: The answer, including its end token.
            prompt: The tokens before the answer. Some templates put the beginning of the answer there.
            tools: The offered tools. Only templates that write arguments without types need them.
        """
        if self.template is None:
            said = tokens[:-1] if tokens and tokens[-1] in self.ends else tokens
            text = decoded(self.tokenizer, said)
            return parse_text(text.partition(self.mark)[0] if self.mark else text)
        try:
            message = parse_response(self.tokenizer, tokens, prompt, None if self.typed else tools)
            calls = [read_call(call) for call in message.get("tool_calls") or []]
        except (ValueError, RecursionError):
            return Answer([], "unparsable")
        return Answer(calls) if calls else Answer([], _why_none(message["content"]))


def parse_text(text: str) -> Answer:
    """
    Parse the calls in the text of an answer. Text before `</think>` is not part of the answer. Supported formats:

    - Qwen and Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, anywhere in the text.
    - Mistral: `[TOOL_CALLS] [{...}, ...]`, after other text.
    - Llama 3: `{"name": ..., "parameters": {...}}`, or a list of such objects, as the whole answer, optionally after
      `<|python_tag|>`.
    """
    text = text.rpartition("</think>")[2].strip()
    try:
        if _OPEN in text:
            values = list(_tagged(text))
        elif _LIST in text:
            values = _values(text.partition(_LIST)[2])
        else:
            text = text.removeprefix(_PYTHON).strip()
            values = _values(text) if text.startswith(("{", "[")) else []
        calls = [read_call(call) for value in values for call in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return Answer([], "unparsable")
    return Answer(calls) if calls else Answer([], _why_none(text))


def _why_none(text: str) -> str:
    looks_like_one = any(sign in text for sign in (_OPEN, _LIST, _PYTHON)) or text.strip().startswith(("{", "["))
    return "unparsable" if looks_like_one else "no_call"


def _tagged(text: str) -> Iterator[Any]:
    """Yield the content of each `<tool_call>`. The last tag may be open at the end of the answer."""
    while (start := text.find(_OPEN)) >= 0:
        text = text[start + len(_OPEN) :].lstrip()
        value, end = JSON.raw_decode(text)
        yield value
        text = text[end:].lstrip()
        if text and not text.startswith(_CLOSE):
            raise ValueError(f"{text[:20]!r} after a call")


def _values(text: str) -> list[Any]:
    """Return JSON values that are separated by spaces, commas or semicolons."""
    values, text = [], text.strip()
    while text:
        value, end = JSON.raw_decode(text)
        values.append(value)
        text = re.sub(r"^[\s,;]+", "", text[end:])
    return values
