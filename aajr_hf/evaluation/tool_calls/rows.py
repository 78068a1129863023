"""Read and check the rows of an evaluation on tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from ...training.data.canonical import canonical_row
from ...training.data.schema import check_messages
from ...training.data.tool_schema import parsed
from .judge import ToolCall, as_accepted, read_call, short


def read_rows(rows: list[dict[str, Any]], numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """
    Read rows and convert their columns to Python objects.

    Args:
        rows: Rows with `prompt` and `completion`, or `messages`; `tools`; and optionally `accepted`. Each column is a
            Python object or its JSON text.
        numbers: Row numbers for error messages; None for the positions in the list.

    Returns:
        Rows with `prompt`, `completion` (with `messages`, the last turn that calls a tool), `tools` (a list or None)
        and `accepted` (default: the completion's own calls), in the form of [`canonical_row`].

    Raises:
        ValueError: if there are no rows, or a row cannot be used; names the row, the column and the problem.
    """
    if not rows:
        raise ValueError("There are no rows to evaluate: give data with at least one row.")
    read = []
    for number, row in zip(numbers or range(len(rows)), rows, strict=True):
        try:
            read.append(_read_row(row))
        except ValueError as error:
            raise ValueError(f"Row {number}: {str(error).removesuffix('.')}.") from error
    if not any(reference_calls(row["completion"]) for row in read):
        raise ValueError(
            "No row calls a tool: give data with a column `tools` and messages with `tool_calls`; calls in the text of "
            "a message are not read, because it is unknown which tools they call."
        )
    return read


def reference_calls(completion: list[dict[str, Any]]) -> list[ToolCall]:
    """Return the calls in a completion of [`read_rows`]."""
    return [read_call(call) for message in completion for call in message.get("tool_calls", [])]


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
    row = canonical_row({name: value for name, value in row.items() if value is not None})
    by_turns = "messages" in row and "completion" not in row
    for name in ("messages",) if by_turns else ("prompt", "completion"):
        check_messages(name, row.get(name))
    prompt, completion = _last_calls(row["messages"]) if by_turns else (row["prompt"], row["completion"])
    # None instead of an empty list, because some templates announce even an empty list of tools.
    tools = row.get("tools")
    _check_schemas(tools or [])
    accepted = row.get("accepted")
    accepted = parsed("`accepted`", accepted) if isinstance(accepted, str) else accepted
    if accepted is None:
        accepted = as_accepted(reference_calls(completion))
    elif not _are_accepted(accepted):
        raise ValueError(f"`accepted` must be a list of {{name: {{argument: [values]}}}}; got {short(accepted)}")
    return {"prompt": prompt, "completion": completion, "tools": tools, "accepted": accepted}


def _last_calls(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the messages before the assistant's last turn with a call (or its last turn), and that turn."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    last = max((number for number in turns if "tool_calls" in messages[number]), default=max(turns, default=0))
    if not turns or last == 0:
        raise ValueError("`messages` must have an assistant turn after another message")
    return messages[:last], [messages[last]]


def _check_schemas(tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        name, schema = tool["function"]["name"], tool["function"].get("parameters") or {}
        if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
            raise ValueError(
                f"`tools`: the parameters of {name!r} are not a valid JSON Schema: `$schema` must be a string"
            )
        try:
            validator_for(schema, Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            path = "/".join(map(str, error.absolute_path)) or "its top level"
            raise ValueError(
                f"`tools`: the parameters of {name!r} are not a valid JSON Schema: at {path}, {error.message}"
            ) from error


def _are_accepted(value: Any) -> bool:
    def is_object(arguments: Any) -> bool:
        return isinstance(arguments, dict) and all(
            isinstance(values, list) and all(is_value(v) for v in values) for values in arguments.values()
        )

    def is_value(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(is_value, value))
        return is_object(value) if isinstance(value, dict) else True

    return isinstance(value, list) and all(
        isinstance(call, dict) and len(call) == 1 and is_object(*call.values()) for call in value
    )
