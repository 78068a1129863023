"""Values that fit the JSON Schema of a tool's arguments."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

# For texts of which neither the schema nor other rows say anything.
_WORDS = ("alpha", "delta", "harbor", "meadow", "orion", "quartz", "saturn", "willow")
_TRIES = 10


class KnownValues:
    """
    Values of the arguments of tools, from the calls that some rows make; where there is none, made up.

    Args:
        calls: Calls in the canonical form.
    """

    def __init__(self, calls: Iterable[dict[str, Any]] = ()):
        self._known: dict[tuple[str, str], list[Any]] = {}
        for call in calls:
            for argument, value in call["function"]["arguments"].items():
                self._known.setdefault((call["function"]["name"], argument), []).append(value)

    def arguments(self, function: dict[str, Any], drawn: random.Random) -> dict[str, Any] | None:
        """
        Return arguments of a tool that fit its schema: all required ones, and each other one with probability 1/2.
        None if none were found, for example because the schema uses references.
        """
        schema = function.get("parameters") or {}
        for _ in range(_TRIES):
            found = {}
            for name, part in (schema.get("properties") or {}).items():
                if name in schema.get("required", ()) or drawn.random() < 0.5:
                    known = self._known.get((function["name"], name))
                    found[name] = drawn.choice(known) if known else made_up(part, drawn)
            if fits(found, schema):
                return found
        return None


def fits(value: Any, schema: Any) -> bool:
    """Whether a value matches a JSON Schema that needs nothing from outside."""
    try:
        return validator_for(schema, Draft202012Validator)(schema, registry=Registry()).is_valid(value)
    except (SchemaError, Unresolvable, TypeError, AttributeError):
        return False


def made_up(schema: Any, drawn: random.Random) -> Any:
    """Return a value for a simple JSON Schema: of its choices, or of its type. It need not fit other schemas."""
    schema = schema if isinstance(schema, dict) else {}
    if "const" in schema:
        return schema["const"]
    for choices in (schema.get("enum"), schema.get("examples")):
        if choices:
            return drawn.choice(choices)
    for options in (schema.get("anyOf"), schema.get("oneOf")):
        if options:
            return made_up(drawn.choice(options), drawn)
    kind = schema.get("type", "string")
    kind = drawn.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        required = schema.get("required", ())
        return {k: made_up(part, drawn) for k, part in (schema.get("properties") or {}).items() if k in required}
    if kind == "array":
        return [made_up(schema.get("items"), drawn) for _ in range(max(schema.get("minItems", 1), 1))]
    if kind in ("integer", "number"):
        least = schema.get("minimum", 1)
        number = drawn.randint(int(least), max(int(schema.get("maximum", least + 30)), int(least)))
        return number if kind == "integer" else float(number)
    return {"boolean": drawn.random() < 0.5, "null": None}.get(kind, drawn.choice(_WORDS))
