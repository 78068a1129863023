"""What one row of training data must hold: the formats that TRL's `SFTTrainer` takes, checked before it fails on them."""

from __future__ import annotations

import json
from typing import Any

# Of the chat templates in use; one that is in none of them would be rendered as nothing, and nothing would say so.
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "environment", "observation")
_EXAMPLES = "examples need `prompt` and `completion`, `messages`, `conversations`, or `{}`"


class RowError(ValueError):
    """Why a row of data cannot be trained on; reads on from where the row stands."""


def check_row(row: object, text_field: str = "text") -> str:
    """
    Refuse a row that is none of TRL's formats for fine-tuning: tokens (`input_ids`), `prompt` and `completion` (texts or
    messages), `messages`, or a text in `text_field`; `tools` are schemas, or a JSON text of them.

    Returns:
        Which of the formats it is, in words: rows of several cannot be trained on together.

    Raises:
        RowError: says what is wrong with it.
    """
    if not isinstance(row, dict):
        raise RowError(f"is {_kind(row)}, not an object with fields")
    held = {name for name, value in row.items() if value is not None}
    if "input_ids" in held:
        if not _is_list_of(row["input_ids"], int):
            raise RowError("`input_ids` must be a list of token numbers")
        return "tokens"
    offered = offered_tools(row.get("tools"))
    if {"prompt", "completion"} <= held:
        return _check_completion(row["prompt"], row["completion"], offered)
    if "messages" in held:
        check_messages("messages", row["messages"], offered)
        return "messages"
    if text_field in held:
        if not isinstance(row[text_field], str):
            raise RowError(f"`{text_field}` must be a text; it is {_kind(row[text_field])}")
        return "text"
    raise RowError(f"has the fields {', '.join(map(str, row)) or '(none)'}: {_EXAMPLES.format(text_field)}")


def _check_completion(prompt: object, completion: object, offered: set[str] | None) -> str:
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise RowError("`completion` is empty")
        return "prompt and completion as texts"
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        raise RowError(
            "`prompt` and `completion` must be two texts, or two lists of messages with `role` and `content`; they are "
            f"{_kind(prompt)} and {_kind(completion)}"
        )
    check_messages("prompt", prompt, offered)
    check_messages("completion", completion, offered)
    if completion[0]["role"] != "assistant":
        raise RowError(f"`completion` must begin with the role 'assistant'; it has {completion[0]['role']!r}")
    if not any(_says_something(message) for message in completion):
        raise RowError("`completion` is empty")
    return "prompt and completion as messages"


def check_messages(name: str, messages: object, offered: set[str] | None = None) -> None:
    """
    Refuse a column `name` that is no conversation, or one that calls tools that are not `offered` (None: any may be).

    Raises:
        RowError: names the column and the message.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(f"`{name}` must be a list of messages with `role` and `content`; it is {_kind(messages)}")
    for number, message in enumerate(messages):
        where = f"`{name}`[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowError(f"{where} must be a message with `role` and `content`; it is {_kind(message)}")
        if message["role"] not in ROLES:
            raise RowError(
                f"{where} has the role {message['role']!r}, which is none of {', '.join(ROLES)} (for conversations "
                "between human and gpt, see `dataset_format`)"
            )
        calls = message.get("tool_calls") or []
        content = message.get("content")
        if not (isinstance(content, str) or _is_list_of(content, dict) or content is None and calls):
            raise RowError(f"{where} must have a text as its `content`; it has {_kind(content)}")
        for call in calls if isinstance(calls, list) else [calls]:
            _check_call(where, call, offered)


def _check_call(where: str, call: object, offered: set[str] | None) -> None:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} has `tool_calls` without the `name` of a `function`")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(f"the arguments of {function['name']} in {where}", arguments)
    if not isinstance(arguments, dict | None):
        raise RowError(f"{where} calls {function['name']} with {_kind(arguments)}: `arguments` must be an object")
    if offered is not None and function["name"] not in offered:
        raise RowError(
            f"{where} calls the tool {function['name']!r}, which is not offered: {', '.join(sorted(offered))}"
        )


def offered_tools(tools: object) -> set[str] | None:
    """
    The names of a row's `tools`; None where there are none, or they have no names (a schema of another kind).

    Raises:
        RowError: where they are neither a list of schemas nor a JSON text of one.
    """
    if isinstance(tools, str):
        tools = _json("`tools`", tools)
    if not tools and isinstance(tools, list | None):
        return None
    if not _is_list_of(tools, dict):
        raise RowError(f"`tools` must be a list of schemas, or a JSON text of one; it is {_kind(tools)}")
    functions = [tool.get("function", tool) for tool in tools]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    if len(names) < len(tools) or not _is_list_of(names, str):
        raise RowError("`tools` has a schema without a `name`")
    return set(names)


def _says_something(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return bool(message.get("tool_calls") or (content.strip() if isinstance(content, str) else content))


def _json(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{name} must be JSON: {error}") from None


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}
    name = names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
    return f"{name} without content" if isinstance(value, list | dict) and not value else name
