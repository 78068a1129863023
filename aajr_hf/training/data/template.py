"""A chat template: what it asks of messages, and the text that it writes of a canonical row."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl import prepare_multimodal_messages

from ..._errors import one_line
from .tool_schema import RowError

Messages = list[dict[str, Any]]

# What a template raises on messages that it does not expect.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError)
_PROBE = {"aajr_probe": "aajr_value"}


@dataclass(frozen=True)
class Template:
    """
    The chat template of a tokenizer or a processor.

    Attributes:
        processing_class: The tokenizer or processor.
        chat_template: A template to use instead of its own, or None.
    """

    processing_class: PreTrainedTokenizerBase | ProcessorMixin
    chat_template: str | None = None

    @functools.cached_property
    def source(self) -> str | None:
        """The text of the template; of all templates, if the tokenizer has several; None if it has none."""
        own = self.chat_template or self.processing_class.chat_template
        return "\n".join(own.values()) if isinstance(own, dict) else own

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The part of the processor that reads text."""
        given = self.processing_class
        return given.tokenizer if isinstance(given, ProcessorMixin) else given

    @property
    def name(self) -> str:
        """How error messages call the template."""
        given = getattr(self.processing_class, "name_or_path", "")
        return f"the chat template of {given}" if given and not self.chat_template else "the chat template"

    def render(self, messages: Messages, **options) -> str:
        """
        Render messages with the arguments of the template, as TRL does.

        Raises:
            RowError: if the template refuses them; the message says what the template says.
        """
        if isinstance(self.processing_class, ProcessorMixin):
            messages = prepare_multimodal_messages(messages)
        try:
            return self.processing_class.apply_chat_template(
                messages, tokenize=False, chat_template=self.chat_template, **options
            )
        except TEMPLATE_ERRORS as error:
            raise RowError(f"is refused by {self.name}: {one_line(error)}") from error

    def adapted(self, messages: Messages) -> Messages:
        """
        Return canonical messages in the form that this template reads: the role developer as system, the arguments of
        calls as JSON text, and texts as parts, where it reads nothing else.
        """
        return list(map(self._adapted, messages))

    def reads(self, field: str) -> bool:
        """Whether the template names a field of messages."""
        return re.search(rf"\b{re.escape(field)}\b", self.source) is not None

    def _adapted(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["role"] == "developer" and not self._has_developer:
            message = message | {"role": "system"}
        content = message["content"]
        if message.get("tool_calls"):
            as_text, without_content = self._call_form
            if as_text:
                message = message | {"tool_calls": list(map(_with_text, message["tool_calls"]))}
            content = None if without_content and content == "" else content
        return message | {"content": _as_parts(content) if self._wants_parts and content is not None else content}

    @functools.cached_property
    def _has_developer(self) -> bool:
        user = {"role": "user", "content": "a"}
        return self.reads("developer") and self._writes([{"role": "developer", "content": "aajr_value"}, user])

    @functools.cached_property
    def _wants_parts(self) -> bool:
        """Whether the template reads texts only as parts, as templates for images do."""
        forms = ("aajr_value", _as_parts("aajr_value"))
        text, parts = (self._writes([{"role": "user", "content": form}]) for form in forms)
        return parts and not text

    @functools.cached_property
    def _call_form(self) -> tuple[bool, bool]:
        """
        Whether the template wants arguments as JSON text, and whether it wants no content beside calls. Found by a
        probe: it is not the template's name that decides, but what it writes.
        """
        for without_content in (False, True):
            plain, text = (self._probe(as_text, without_content) for as_text in (False, True))
            is_sound = plain is not None and "aajr_value" in plain and str(_PROBE) not in plain
            if is_sound or (text is not None and json.dumps(_PROBE) in text):
                return not is_sound, without_content
        return False, False

    def _writes(self, messages: Messages) -> bool:
        """Whether the template writes the probe's text, and not the notation of the object that holds it."""
        try:
            text = self.render(messages)
        except RowError:
            return False
        return "aajr_value" in text and not any(quoted in text for quoted in ("'text'", '"text"'))

    @functools.cached_property
    def writes_call_ids(self) -> bool:
        """Whether the template writes which call a result belongs to."""
        call = {"id": "aajrprobe", "type": "function", "function": {"name": "aajr_tool", "arguments": _PROBE}}
        result = {"role": "tool", "name": "aajr_tool", "content": "a", "tool_call_id": "aajrprobe"}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            return "aajrprobe" in self.render(self.adapted([{"role": "user", "content": "a"}, calling, result]))
        except RowError:
            return False

    def _probe(self, as_text: bool, without_content: bool) -> str | None:
        call = {"id": "aajrprobe", "type": "function", "function": {"name": "aajr_tool", "arguments": _PROBE}}
        content = None if without_content else ""
        assistant = {"role": "assistant", "content": content, "tool_calls": [_with_text(call) if as_text else call]}
        try:
            return self.render([{"role": "user", "content": "a"}, assistant])
        except RowError:
            return None


def template_of(tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> Template:
    """The [`Template`] of a tokenizer; the same one each time, so that it probes the template once."""
    return _template_of(tokenizer, chat_template, str(tokenizer.chat_template))


@functools.lru_cache(maxsize=8)
def _template_of(tokenizer: PreTrainedTokenizerBase, chat_template: str | None, own: str) -> Template:
    return Template(tokenizer, chat_template)


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON text."""
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return call | {"function": function | {"arguments": text}}
