"""Checks of one row of training data: the formats of TRL's `SFTTrainer`, checked before it fails on them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .formats.table import PER_TOKEN
from .roles import OBSERVED_ROLES
from .tool_schema import RowError, check_call, is_list_of, kind_of, offered_tools

# Roles of the chat templates in use. Templates silently leave out messages of an unknown role.
ROLES = ("system", "developer", "assistant", *OBSERVED_ROLES["observation"])


def check_row(row: object, text_field: str = "text") -> str:
    """
    Refuse a canonical row that is in none of TRL's formats: tokens (`input_ids`), `prompt` and `completion` (texts or
    messages), pairs of preferences (`chosen` and `rejected`, with or without `prompt`), `messages`, or a text in
    `text_field`.

    Returns:
        The name of the row's format. Rows of different formats cannot be trained on together.

    Raises:
        RowError: if the row is invalid; the message says what is wrong.
    """
    if not isinstance(row, dict):
        raise RowError(f"is {kind_of(row)}, not an object with fields")
    held = {name for name, value in row.items() if value is not None}
    if not isinstance(row.get("chat_template_kwargs"), dict | None):
        raise RowError(f"`chat_template_kwargs` must be an object; it is {kind_of(row['chat_template_kwargs'])}")
    if "input_ids" in held:
        return _check_tokens(row, [name for name in PER_TOKEN if name in held])
    offered = offered_tools(row.get("tools"))
    if {"prompt", "completion"} <= held:
        return _check_completion(row["prompt"], row["completion"], offered)
    if {"chosen", "rejected"} <= held:
        return _check_pair(row, offered)
    if "messages" in held:
        check_messages("messages", row["messages"], offered)
        if not any(message["role"] == "assistant" and _says_something(message) for message in row["messages"]):
            raise RowError("`messages` has no turn of the assistant with a text or a call")
        return "messages"
    if text_field in held:
        if not isinstance(row[text_field], str):
            raise RowError(f"`{text_field}` must be a text; it is {kind_of(row[text_field])}")
        if not row[text_field].strip():
            raise RowError(f"`{text_field}` is empty")
        return "text"
    raise RowError(f"has the fields {', '.join(map(str, row)) or '(none)'}: {remedy(row, text_field)}")


def remedy(fields: Collection[str], text_field: str) -> str:
    """Remedy for rows whose fields match none of TRL's formats."""
    if "ground_truth" in fields or {"question", "function"} <= set(fields):
        return "set `dataset_format` to bfcl"
    return (
        f"examples need `prompt` and `completion`, `messages`, or `{text_field}`, or the columns of another format "
        "(`conversations`; `query` and `answers`; `instruction` and `output`)"
    )


def _check_tokens(row: dict[str, Any], per_token: list[str]) -> str:
    for name in ("input_ids", *per_token):
        if not is_list_of(row[name], int):
            raise RowError(f"`{name}` must be a list of whole numbers")
        if len(row[name]) != len(row["input_ids"]):
            raise RowError(f"`{name}` has {len(row[name])} entries, and `input_ids` {len(row['input_ids'])}")
    return " and ".join(["tokens", *(f"`{name}`" for name in per_token)])


def _check_completion(prompt: object, completion: object, offered: set[str] | None) -> str:
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise RowError("`completion` is empty")
        return "prompt and completion as texts"
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        raise RowError(
            "`prompt` and `completion` must be two texts, or two lists of messages with `role` and `content`; they "
            f"are {kind_of(prompt)} and {kind_of(completion)}"
        )
    check_messages("prompt", prompt, offered)
    check_messages("completion", completion, offered)
    if completion[0]["role"] != "assistant":
        raise RowError(f"`completion` must begin with the role 'assistant'; it has {completion[0]['role']!r}")
    if not any(_says_something(message) for message in completion):
        raise RowError("`completion` is empty")
    return "prompt and completion as messages"


def _check_pair(row: dict[str, Any], offered: set[str] | None) -> str:
    names = [name for name in ("prompt", "chosen", "rejected") if row.get(name) is not None]
    if all(isinstance(row[name], str) for name in names):
        return "pairs of texts"
    for name in names:
        check_messages(name, row[name], offered)
    return "pairs of messages"


def check_messages(name: str, messages: object, offered: set[str] | None = None) -> None:
    """
    Refuse a column `name` of a canonical row that is not a conversation, or that calls tools that are not `offered`
    (None allows any tool).

    Raises:
        RowError: if the column is refused; the message names the column and the message in it.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(f"`{name}` must be a list of messages with `role` and `content`; it is {kind_of(messages)}")
    for number, message in enumerate(messages):
        where = f"`{name}`[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowError(f"{where} must be a message with `role` and `content`; it is {kind_of(message)}")
        if message["role"] not in ROLES:
            raise RowError(
                f"{where} has the role {message['role']!r}, which is none of {', '.join(ROLES)} (for conversations "
                "between human and gpt, see `dataset_format`)"
            )
        for call in message.get("tool_calls", []):
            check_call(where, call, offered)


def check_preference(row: dict[str, Any]) -> None:
    """
    Refuse a canonical row with `prompt`, `chosen` and `rejected` if an answer holds more than turns of the assistant
    that are trained on: every token of an answer counts for the preference.

    Raises:
        RowError: if the row is refused; the message names the column and the message in it.
    """
    for name in ("chosen", "rejected"):
        for number, message in enumerate(row[name]):
            if message["role"] != "assistant":
                raise RowError(
                    f"`{name}`[{number}] has the role {message['role']!r}, but an answer holds only what the assistant "
                    "says: move the messages before the last turn to the `prompt`"
                )
            if message.get("weight") == 0:
                raise RowError(
                    f"`{name}`[{number}] has the `weight` 0, but every answer of a pair is compared: remove it"
                )
        if not any(map(_says_something, row[name])):
            raise RowError(f"`{name}` is empty")


def _says_something(message: dict[str, Any]) -> bool:
    return message.get("weight") != 0 and bool(message.get("tool_calls") or message["content"].strip())
