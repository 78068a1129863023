"""Judge tool calls: whether they fit the offered tools, and whether they are the accepted calls."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from ...training.data.reading.values import no_constant, parsed

# Reasons why an answer is not valid, in the order in which they are checked.
FAILURES = {
    "unfinished": "longer than the limit",
    "no_call": "calls no tool",
    "unparsable": "looks like a call, but cannot be parsed",
    "unknown_tool": "calls a tool that is not offered",
    "schema": "arguments do not match the tool's schema",
}
# Reasons for which no call could be parsed.
UNREADABLE = ("unfinished", "no_call", "unparsable")


class ToolCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


class Answer(NamedTuple):
    """The calls in an answer, and a failure (a key of [`FAILURES`]) or None. With a failure, there are no calls."""

    calls: list[ToolCall]
    failure: str | None = None


class Verdict(NamedTuple):
    """Why an answer is not valid (a key of [`FAILURES`]), or None if it is valid; and whether it is exact."""

    failure: str | None
    exact: bool


def tool_validators(row: dict[str, Any]) -> dict[str, Validator]:
    """Return a JSON Schema validator of the arguments for each tool of a row of [`read_rows`], by name."""
    validators = {}
    for tool in row["tools"] or []:
        schema = tool["function"].get("parameters") or {}
        # The empty registry makes sure that schemas from the data cannot load anything from the network.
        validators[tool["function"]["name"]] = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    return validators


def judge(answer: Answer, row: dict[str, Any]) -> Verdict:
    """
    Return whether an answer to a row of [`read_rows`] is valid and whether it is exact.

    An answer is valid if it can be parsed and each of its calls names an offered tool with arguments that match the
    tool's JSON Schema. It is exact if its calls match the accepted ones ([`matches`]). An exact answer can be invalid,
    because some data has accepted answers that break its schemas. If no call is expected, an answer without calls is
    both.
    """
    nothing_expected = not row["accepted"]
    if answer.failure == "no_call" and nothing_expected:
        return Verdict(None, True)
    failure = answer.failure or _misfit(answer.calls, tool_validators(row))
    return Verdict(failure, answer.failure is None and matches(answer.calls, row["accepted"]))


def matches(calls: list[ToolCall], accepted: list[dict[str, dict[str, list[Any]]]]) -> bool:
    """
    Return whether calls match the accepted ones, by the rules of the AST checker of the Berkeley Function Calling
    Leaderboard. Differences to this checker are in parentheses.

    - There are as many calls as accepted ones, in any order. (All assignments are tried; the checker takes the first
      call that fits.)
    - The name equals the accepted name. (Dots are not replaced by underscores.)
    - Every given argument is an accepted argument and has one of its accepted values. An accepted argument may be left
      out only if `""` is one of its accepted values.
    - Strings are compared without case, spaces, the characters `,./-_*^`, and the kind of quotes. (This also holds in
      lists at any depth; the checker looks one level deep.)
    - Numbers are compared by value: 5 equals 5.0. (The checker rejects 5.0 if the schema says integer; JSON Schema
      accepts it.) Booleans are not numbers.
    - Lists are compared element by element, in order. Objects are compared like arguments.

    Args:
        accepted: One object for each call, `{name: {argument: [accepted values]}}`. If an accepted value is an object,
            each of its keys has a list of accepted values, too.
    """
    if len(calls) != len(accepted):
        return False
    fitting = [[i for i, wanted in enumerate(accepted) if _call_matches(call, wanted)] for call in calls]
    taken: dict[int, int] = {}

    def place(call: int, seen: set[int]) -> bool:
        """Assign an accepted call to the call, and reassign other calls if needed (augmenting paths)."""
        for i in fitting[call]:
            if i not in seen:
                seen.add(i)
                if i not in taken or place(taken[i], seen):
                    taken[i] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(calls)))


def as_accepted(calls: list[ToolCall]) -> list[dict[str, dict[str, list[Any]]]]:
    """Return these calls in the format of accepted calls. (An argument with the value `""` may be left out.)"""

    def only(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: [only(inner)] for key, inner in value.items()}
        return [only(inner) for inner in value] if isinstance(value, list) else value

    return [{call.name: only(call.arguments)} for call in calls]


def read_call(value: Any) -> ToolCall:
    """
    Read a call from a JSON value: `name`, and `arguments` or `parameters` (an object, its JSON text, or nothing),
    optionally inside `function`.

    Raises:
        ValueError: if the value has another form.
    """
    value = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"{short(value)} is not a tool call: it needs a `name`")
    arguments = value.get("arguments", value.get("parameters"))
    arguments = {} if arguments is None else arguments
    arguments = parsed("the arguments", arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {value['name']!r} must be an object; got {short(arguments)}")
    return ToolCall(value["name"], arguments)


# This decoder rejects NaN and Infinity, which are not valid JSON.
JSON = json.JSONDecoder(parse_constant=no_constant)


def standardized(text: str) -> str:
    """Return a string in the form in which [`matches`] compares it."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _misfit(calls: list[ToolCall], validators: dict[str, Validator]) -> str | None:
    if any(call.name not in validators for call in calls):
        return "unknown_tool"
    for call in calls:
        try:
            if not validators[call.name].is_valid(call.arguments):
                return "schema"
        except Unresolvable as error:
            raise ValueError(
                f"The schema of the tool {call.name!r} refers to a definition that it does not contain: {error}"
            ) from error
    return None


def _call_matches(call: ToolCall, accepted: dict[str, dict[str, list[Any]]]) -> bool:
    ((name, arguments),) = accepted.items()
    return call.name == name and _object_matches(call.arguments, arguments)


def _object_matches(given: dict[str, Any], accepted: dict[str, list[Any]]) -> bool:
    if not given.keys() <= accepted.keys():
        return False
    return all(
        any(_value_matches(given[key], value) for value in values) if key in given else "" in values
        for key, values in accepted.items()
    )


def _value_matches(given: Any, accepted: Any) -> bool:
    if isinstance(given, bool) or isinstance(accepted, bool):
        return given is accepted
    if isinstance(given, str) and isinstance(accepted, str):
        return standardized(given) == standardized(accepted)
    if isinstance(given, list) and isinstance(accepted, list):
        return len(given) == len(accepted) and all(map(_value_matches, given, accepted))
    if isinstance(given, dict) and isinstance(accepted, dict):
        return _object_matches(given, accepted)
    return given == accepted


def short(value: Any) -> str:
    """Return a value as short text for error messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
