"""Files of the Berkeley Function Calling Leaderboard (BFCL): questions, and their answers in other files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from ..reading.json_files import json_rows
from ..reading.values import Item, RowError, field

# From BFCL's names of types to JSON Schema's; "any" is a schema without a type.
_TYPES = {"dict": "object", "float": "number", "tuple": "array"} | {
    name: name for name in ("object", "number", "integer", "string", "boolean", "array", "null")
}


def bfcl_files(path: Path) -> list[Path]:
    """
    The question files in a folder, or the one given file.

    Raises:
        ValueError: if there are no question files, or none of them has a file of answers.
    """
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}: give a folder with BFCL's files, or one of the files")
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    files = [file for file in files if not file.name.endswith(".answers.json")]
    if not files:
        raise ValueError(f"{path} holds no file of questions: give a folder with files X.json and X.answers.json")
    if not any(answers_of(file).is_file() for file in files):
        raise ValueError(
            f"there are no answers to {files[0]}: put them beside it, as {files[0].stem}.answers.json or "
            f"possible_answer/{files[0].name}; for rows of another format, set `dataset_format` to auto"
        )
    return files


def has_answers(path: Path) -> bool:
    """Whether the path is a file of questions with answers, or a folder with such files."""
    files = path.glob("*.json") if path.is_dir() else [path]
    return any(file.suffix == ".json" and answers_of(file).is_file() for file in files)


def answers_of(questions: Path) -> Path:
    """Path of the answers to a file of questions: beside it, or in BFCL's own folder `possible_answer`."""
    beside = questions.with_name(f"{questions.stem}.answers.json")
    return beside if beside.is_file() else questions.parent / "possible_answer" / questions.name


def bfcl_rows(questions: Path, unread: dict[str, str] | None = None) -> Iterator[Item]:
    """
    Join one file of questions with its answers by `id`. The rows have `prompt`, `completion`, `tools`, and a JSON
    text `accepted`, which holds `{name: {argument: [accepted values]}}` for each call.

    Args:
        unread: Receives the other columns of the questions, each with the place of the first.
    """
    file, answers = answers_of(questions), {}
    for place, row in json_rows(file) if file.is_file() else ():
        try:
            if isinstance(row, RowError):
                raise row
            name = field(row, "id", str)
            if name in answers:
                raise RowError(f"answers {name!r} a second time, after {answers[name][0]}")
            answers[name] = place, field(row, "ground_truth", list)
        except RowError as error:
            yield place, error
    asked: dict[str, str] = {}
    for place, row in json_rows(questions):
        try:
            if isinstance(row, RowError):
                raise row
            name = field(row, "id", str)
            if name in asked:
                raise RowError(f"has the id {name!r} a second time, after {asked[name]}")
            asked[name] = place
            if name not in answers:
                raise RowError(f"has the id {name!r}, but {file.parent.name}/{file.name} has no answer to it")
            for column in row.keys() - {"id", "question", "function"} if unread is not None else ():
                unread.setdefault(column, place)
            yield place, bfcl_row(row, answers[name][1])
        except RowError as error:
            yield place, error
    for name, (place, _) in answers.items():
        if name not in asked:
            yield place, RowError(f"answers {name!r}, but {questions.name} has no such question")


def bfcl_row(question: dict[str, Any], ground_truth: list[Any]) -> dict[str, Any]:
    """
    The row of [`bfcl_rows`] for one question and its accepted calls. For each argument, the first accepted value that
    the tool's schema allows is chosen. If the schema allows none, the argument is left out if it may be (`""`);
    otherwise it gets its first accepted value.

    Raises:
        RowError: if the question has several turns, a type is not in JSON Schema, or calls do not fit the tools.
    """
    turns = field(question, "question", list)
    if len(turns) != 1 or not isinstance(turns[0], list):
        raise RowError(f"has {len(turns)} turns, but only questions of one turn can be trained on")
    functions = question.get("function")
    functions = [functions] if isinstance(functions, dict) else field(question, "function", list)
    tools = {}
    for function in functions:
        name = field(function, "name", str)
        schema = json_schema(field(function, "parameters", dict))
        described = {"name": name, "description": str(function.get("description", "")), "parameters": schema}
        if name in tools:
            raise RowError(f"offers two tools with the name {name!r}")
        tools[name] = {"type": "function", "function": described}
    if not ground_truth:
        raise RowError("has an answer without a call")
    accepted = [_accepted(call, tools) for call in ground_truth]
    calls = [
        {
            "type": "function",
            "function": {"name": name, "arguments": _chosen_fields(arguments, tools[name]["function"]["parameters"])},
        }
        for call in accepted
        for name, arguments in call.items()
    ]
    return {
        "id": question["id"],
        "prompt": turns[0],
        "completion": [{"role": "assistant", "content": "", "tool_calls": calls}],
        "tools": list(tools.values()),
        "accepted": json.dumps(accepted, ensure_ascii=False),
    }


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """
    Convert a schema of BFCL to JSON Schema: `dict` becomes `object`, `float` becomes `number`, `tuple` becomes
    `array`, and `any` is removed.

    Raises:
        RowError: for a type that is none of these and not in JSON Schema, for example a type of Java.
    """
    if not isinstance(schema, dict):
        raise RowError(f"has a schema that is not an object: {schema!r}")
    result = dict(schema)
    kind = schema.get("type")
    if kind == "any":
        del result["type"]
    elif isinstance(kind, str) and kind in _TYPES:
        result["type"] = _TYPES[kind]
    elif kind is not None:
        raise RowError(f"has a schema of the type {kind!r}, which JSON Schema does not have")
    if isinstance(schema.get("properties"), dict):
        result["properties"] = {name: json_schema(part) for name, part in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        result["items"] = json_schema(schema["items"])
    return result


def _accepted(call: object, tools: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Check one accepted call against the tools. No accepted value for an array means the empty array."""
    if not isinstance(call, dict) or len(call) != 1 or not isinstance(next(iter(call.values())), dict):
        raise RowError(f"has an answer that is not a call of one tool with its arguments: {str(call)[:80]}")
    name, arguments = next(iter(call.items()))
    if name not in tools:
        raise RowError(f"has an answer that calls {name!r}, which is not offered: {', '.join(tools)}")
    schema = tools[name]["function"]["parameters"]
    known = schema.get("properties", {})
    checked = {}
    for argument, values in arguments.items():
        if argument not in known:
            raise RowError(f"has an answer that gives {name} the unknown argument {argument!r}")
        empty = values == [] and known[argument].get("type") == "array"
        checked[argument] = [[]] if empty else values
    given = _chosen_fields(checked, schema)
    missing = [argument for argument in schema.get("required", []) if argument not in given]
    if missing:
        raise RowError(f"has an answer that calls {name} without its required {', '.join(missing)}")
    return {name: checked}


def _chosen_fields(fields: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """
    Choose for each field the first accepted value that the schema allows. If there is none, leave the field out if it
    may be left out, or else choose its first value.
    """
    known, chosen = schema.get("properties", {}), {}
    for name, values in fields.items():
        if not isinstance(values, list) or not values:
            raise RowError(f"has an answer without a list of accepted values for {name!r}")
        part = known.get(name, {})
        candidates = [_chosen(value, part) for value in values if value != ""]
        allowed = [value for value in candidates if Draft202012Validator(part).is_valid(value)]
        if allowed or (candidates and "" not in values):
            chosen[name] = (allowed or candidates)[0]
    return chosen


def _chosen(value: Any, schema: dict[str, Any]) -> Any:
    """Choose from an accepted value: objects in it have lists of accepted values as their fields."""
    if isinstance(value, dict):
        return _chosen_fields(value, schema)
    return [_chosen(item, schema.get("items", {})) for item in value] if isinstance(value, list) else value
