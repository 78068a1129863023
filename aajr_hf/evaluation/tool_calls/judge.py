"""Tool calls: whether one fits the tools on offer, and whether it is an accepted one."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from ...training.data.tool_schema import no_constant, parsed

# Why an answer is not valid, in the order in which it is looked for.
FAILURES = {
    "unfinished": "not over when its tokens were",
    "no_call": "calls no tool",
    "unparsable": "looks like a call that cannot be read",
    "unknown_tool": "calls a tool that is not offered",
    "schema": "arguments against the tool's schema",
}
# Those for which no call could be read.
UNREADABLE = ("unfinished", "no_call", "unparsable")


class ToolCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


class Answer(NamedTuple):
    """What an answer calls; with a failure, a key of [`FAILURES`], nothing."""

    calls: list[ToolCall]
    failure: str | None = None


class Verdict(NamedTuple):
    """Why an answer is not valid, a key of [`FAILURES`], or None if it is; and whether it is an accepted one."""

    failure: str | None
    exact: bool


def tool_validators(row: dict[str, Any]) -> dict[str, Validator]:
    """By the name of each tool of a row of [`read_rows`]: what tells whether arguments match its JSON Schema."""
    validators = {}
    for tool in row["tools"] or []:
        schema = tool["function"].get("parameters") or {}
        # The empty registry keeps schemas from the data from having anything fetched.
        validators[tool["function"]["name"]] = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    return validators


def judge(answer: Answer, row: dict[str, Any]) -> Verdict:
    """
    Whether an answer to a row of [`read_rows`] is valid: it parses, and each of its calls names a tool on offer with
    arguments that match the tool's JSON Schema; and whether it is exact ([`matches`]). The two do not depend on each
    other: data exists whose accepted answers break its schemas. Where nothing is to be called, an answer that calls
    nothing is both.
    """
    nothing_expected = not row["accepted"]
    if answer.failure == "no_call" and nothing_expected:
        return Verdict(None, True)
    failure = answer.failure or _misfit(answer.calls, tool_validators(row))
    return Verdict(failure, answer.failure is None and matches(answer.calls, row["accepted"]))


def matches(calls: list[ToolCall], accepted: list[dict[str, dict[str, list[Any]]]]) -> bool:
    """
    Whether calls are the accepted ones, by the rules of the Berkeley Function Calling Leaderboard's AST checker:

    - As many calls as accepted ones, in any order. (A matching is sought among all; the checker takes the first that
      fits.)
    - The name is the accepted one. (No dots become underscores.)
    - Every argument is among the accepted ones, with one of its accepted values; those that are not given have `""`
      among their accepted values.
    - Strings are equal but for case, spaces, the characters `,./-_*^`, and the kind of quotes. (In lists, at any depth;
      the checker looks one level deep.)
    - Numbers are equal as numbers, 5 and 5.0. (The checker refuses 5.0 where the schema says integer, which JSON Schema
      does not.) Truth values are no numbers.
    - Lists are equal element by element, in order; objects are compared as arguments are.

    Args:
        accepted: One object for each call, `{name: {argument: [accepted values]}}`; in objects among the accepted
            values, each key has the list of its accepted values again.
    """
    if len(calls) != len(accepted):
        return False
    fitting = [[i for i, wanted in enumerate(accepted) if _call_matches(call, wanted)] for call in calls]
    taken: dict[int, int] = {}

    def place(call: int, seen: set[int]) -> bool:
        """Give the call an accepted one, and those who must make room another one (augmenting paths)."""
        for i in fitting[call]:
            if i not in seen:
                seen.add(i)
                if i not in taken or place(taken[i], seen):
                    taken[i] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(calls)))


def as_accepted(calls: list[ToolCall]) -> list[dict[str, dict[str, list[Any]]]]:
    """These calls, and no others, in the form of accepted ones. (An argument `""` may be left out.)"""

    def only(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: [only(inner)] for key, inner in value.items()}
        return [only(inner) for inner in value] if isinstance(value, list) else value

    return [{call.name: only(call.arguments)} for call in calls]


def read_call(value: Any) -> ToolCall:
    """
    A call from JSON: `name`, and `arguments` or `parameters` (an object, its JSON text, or nothing), perhaps within
    `function`.

    Raises:
        ValueError: for anything else.
    """
    value = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"{short(value)} is no call: it needs a `name`")
    arguments = value.get("arguments", value.get("parameters"))
    arguments = {} if arguments is None else arguments
    arguments = parsed("the arguments", arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {value['name']!r} are no object: {short(arguments)}")
    return ToolCall(value["name"], arguments)


# Without Python's own NaN and Infinity.
JSON = json.JSONDecoder(parse_constant=no_constant)


def standardized(text: str) -> str:
    """A string as [`matches`] compares it."""
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
                f"The schema of the tool {call.name!r} refers to what it does not contain: {error}"
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
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
