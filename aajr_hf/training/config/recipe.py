"""The settings of a run as a recipe: what its fields are where they are not the defaults, without the user's tokens."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from ..._compat.transformers import ALIASES

# The file of a run's recipe, beside its model.
RECIPE = "recipe.yaml"

# Whose defaults depend on the machine.
_KEPT = ("use_cpu", "bf16", "fp16")

# Which a recipe is of, unless it names another `trainer`.
SFT_TRAINER, GRPO_TRAINER = "AAJRTrainer", "AAJRGRPOTrainer"


def recipe_in(folder: Path) -> dict[str, Any]:
    """
    The recipe beside a model.

    Raises:
        OSError: if there is none.
        ValueError: if it is none.
    """
    file = folder / RECIPE
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{file} is not a mapping of fields to values.")
    return recipe


def is_secret(name: str) -> bool:
    """Whether what a field or a key of that name holds is nobody else's."""
    return name in ("token", "use_auth_token") or name.endswith("_token")


def without_secrets(value: Any) -> Any:
    """A mapping or a list without what is secret in it, however deep."""
    if isinstance(value, dict):
        return {key: without_secrets(part) for key, part in value.items() if not is_secret(str(key))}
    return [without_secrets(part) for part in value] if isinstance(value, list) else value


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
        hidden = is_secret(field.name) or field.name in ALIASES  # which mirror the fields that they stand for
        if field.init and not hidden and (value != default or field.name in _KEPT):
            recipe[field.name] = value
    return recipe


def with_radius(recipe: dict[str, Any]) -> dict[str, Any]:
    """
    A recipe in which `epsilon` is the adversary's radius, whichever trainer it is of: in GRPO's, `epsilon` is TRL's clipping range,
    here `clip_epsilon`.
    """
    if recipe.get("trainer") != GRPO_TRAINER:
        return recipe
    names = {"epsilon": "clip_epsilon", "perturbation_epsilon": "epsilon"}
    return {names.get(name, name): value for name, value in recipe.items()}


def plain(value: Any) -> Any:
    """
    A value as JSON has it, without secrets: enumerations by their value, configurations by their fields, anything else
    written out.
    """
    return without_secrets(json.loads(json.dumps(value, default=_plain)))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)
