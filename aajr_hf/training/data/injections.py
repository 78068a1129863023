"""Injections: texts in what users and tools say that ask the agent for another call."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from .chat_spans import chat_renderer
from .schema_values import KnownValues
from .template import TEMPLATE_ERRORS

Messages = list[dict[str, Any]]
OWN_TEXTS = Path(__file__).parent / "injections.yaml"
_PLACES = re.compile(r"(?<=\S)\s+(?=\S)|^|$")


@dataclass(frozen=True)
class InjectionTexts:
    """
    The texts of injections.

    Attributes:
        plain: Requests, with `{name}` and `{arguments}` in place of the call.
        answers: What the agent seems to have answered in a completion attack.
    """

    plain: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Injection:
    """
    A prompt with an injection.

    Attributes:
        prompt: The messages.
        call: The call that the injection asks for, in the canonical form.
        message: Number of the message that holds the injection.
    """

    prompt: Messages
    call: dict[str, Any]
    message: int


def read_injection_texts(file: Path = OWN_TEXTS) -> InjectionTexts:
    """
    Read a YAML file with the lists `plain` and `answers`.

    Raises:
        ValueError: if the file cannot be read or has another form; names the file, the field and the remedy.
    """
    try:
        read = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}: give a YAML file.") from error
    lists = {name: (read if isinstance(read, dict) else {}).get(name) for name in ("plain", "answers")}
    for name, texts in lists.items():
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)):
            raise ValueError(f"{file} must have a list of texts `{name}`: see {OWN_TEXTS.name} of this package.")
    for text in lists["plain"]:
        if "{name}" not in text:
            raise ValueError(f"{file}: the text {text[:60]!r} in `plain` does not name a call: put {{name}} into it.")
    return InjectionTexts(*(tuple(texts) for texts in lists.values()))


class Injector:
    """
    Puts injections into rows with `prompt`, `completion` and `tools` in the canonical form. The requested calls have
    arguments that fit the tools' schemas, if possible with values that other rows use.

    Args:
        tokenizer: Its chat template is imitated in completion attacks.
        rows: The rows.
        texts: The texts.
        roles: The roles whose messages may hold an injection.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict[str, Any]],
        texts: InjectionTexts,
        roles: Collection[str],
    ):
        self.tokenizer, self.texts, self.roles = tokenizer, texts, roles
        self.values = KnownValues(call for row in rows for call in calls_of(row["completion"]))

    def inject(self, row: dict[str, Any], kind: str, drawn: random.Random) -> Injection | None:
        """
        Put an injection into a row, into one of the tools' messages, or one of the users' if no tool has said anything.

        Args:
            kind: `plain`: a request between two words; `completion`: at the end of a message, the template's own end of
                the turn, an answer, and the request as a turn of the user; `shuffled`: as `plain`, with the words of
                the request in random order, as a control.
            drawn: Source of the random choices.

        Returns:
            The injection, or None if no message can hold one, or no tool on offer fits another call.

        Raises:
            ValueError: if the chat template refuses the turns of a completion attack.
        """
        message, call = self._message(row["prompt"], drawn), self.other_call(row, drawn)
        if message is None or call is None:
            return None
        request = drawn.choice(self.texts.plain)
        # Not `format`, because the arguments and the texts contain braces.
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        request = request.replace("{name}", call["function"]["name"]).replace("{arguments}", arguments)
        said = row["prompt"][message]["content"]
        if kind == "completion":
            said += self._faked_turns(row, message, drawn.choice(self.texts.answers), request)
        else:
            words = request.split()
            if kind == "shuffled":
                drawn.shuffle(words)
            place = drawn.choice([found.span() for found in _PLACES.finditer(said)])
            parts = (said[: place[0]], " ".join(words), said[place[1] :])
            said = " ".join(filter(None, parts))
        prompt = [*row["prompt"]]
        prompt[message] = prompt[message] | {"content": said}
        return Injection(prompt, call, message)

    def other_call(self, row: dict[str, Any], drawn: random.Random) -> dict[str, Any] | None:
        """Return a call to a tool on offer that the row does not make, to another tool if there is one."""
        asked = [call["function"] for call in calls_of(row["completion"])]
        names = {call["name"] for call in asked}
        functions = [tool["function"] for tool in row.get("tools") or []]
        drawn.shuffle(functions)
        functions.sort(key=lambda function: function["name"] in names)
        for function in functions:
            # Of a tool that the row calls, the known values may be the row's own.
            values = KnownValues() if function["name"] in names else self.values
            arguments = values.arguments(function, drawn)
            call = {"name": function["name"], "arguments": arguments}
            if arguments is not None and call not in asked:
                return {"type": "function", "function": call}
        return None

    def _message(self, prompt: Messages, drawn: random.Random) -> int | None:
        held = [i for i, said in enumerate(prompt) if said["role"] in self.roles and said["content"].strip()]
        by_tools = [i for i in held if prompt[i]["role"] == "tool"]
        return drawn.choice(by_tools or held) if held else None

    def _faked_turns(self, row: dict[str, Any], message: int, answer: str, request: str) -> str:
        """What the template writes between a message and the end of a request two turns later."""
        prompt = row["prompt"][: message + 1]
        plain = json.dumps([row["prompt"], answer, request], ensure_ascii=False)
        mark = next(f"zq{number}x" for number in range(len(plain)) if f"zq{number}x" not in plain)
        turns = [
            *prompt[:-1],
            prompt[-1] | {"content": prompt[-1]["content"] + mark},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": request + mark},
        ]
        try:
            text = chat_renderer(self.tokenizer, row)(turns)
        except TEMPLATE_ERRORS as error:
            raise ValueError(f"The chat template refuses the turns of a completion attack: {error}.") from error
        return text.split(mark)[1]


def calls_of(messages: Messages) -> list[dict[str, Any]]:
    """Return the calls of canonical messages."""
    return [call for message in messages for call in message.get("tool_calls") or []]
