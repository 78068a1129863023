"""The settings of a run as a recipe: what its fields are where they are not the defaults, without the user's tokens."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from transformers import TrainingArguments

SECRETS = ("hub_token", "push_to_hub_token")
# Whose defaults depend on the machine.
_KEPT = ("use_cpu", "bf16", "fp16")


def recipe_of(args: TrainingArguments) -> dict[str, Any]:
    """
    The fields of training arguments that differ from their defaults, and those that depend on the machine, as plain values
    for YAML or JSON. With the same class, `type(args)(**recipe)` gives the same settings.
    """
    recipe = {}
    for field in dataclasses.fields(args):
        value = plain(getattr(args, field.name))
        # A default that is made anew is an empty container, or what the class has made of it.
        factory = field.default_factory
        default = plain(field.default if factory is dataclasses.MISSING else factory())
        if field.init and field.name not in SECRETS and (value != default or field.name in _KEPT):
            recipe[field.name] = value
    return recipe


def plain(value: Any) -> Any:
    """A value as JSON has it: enumerations by their value, configurations by their fields, anything else written out."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)
