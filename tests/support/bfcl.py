"""The leaderboard's files as rows, as far as tests need it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .tool_callers import calling

_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of all parts, by their ids; of what is accepted the first value, and nothing that may be left out."""
    rows = {}
    for answers in sorted(folder.glob("*.answers.json")):
        accepted = {line["id"]: line["ground_truth"] for line in _lines(answers)}
        for line in _lines(answers.with_name(answers.name.replace(".answers", ""))):
            functions = [f | {"parameters": _schema(f["parameters"])} for f in line["function"]]
            required = {f["name"]: f["parameters"].get("required", []) for f in functions}
            calls = [
                (
                    name,
                    {k: _first(values) for k, values in arguments.items() if _is_given(values, k in required[name])},
                )
                for call in accepted[line["id"]]
                for name, arguments in call.items()
            ]
            tools = [{"type": "function", "function": function} for function in functions]
            row = calling("", tools, calls, accepted[line["id"]])
            rows[line["id"]] = row | {"prompt": line["question"][0]}
    return rows


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_schema(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _TYPES.get(inner, inner) if key == "type" and isinstance(inner, str) else _schema(inner)
        for key, inner in value.items()
        if not (key == "type" and inner == "any")
    }


def _is_given(values: list[Any], required: bool) -> bool:
    return any(value != "" for value in values) and (required or "" not in values)


def _first(values: list[Any]) -> Any:
    return _plain(next(value for value in values if value != ""))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _first(inner) for key, inner in value.items() if _is_given(inner, False)}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
