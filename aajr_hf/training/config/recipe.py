"""The settings of a run as a recipe: the fields that differ from their defaults, without the user's access tokens."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from ..._compat.transformers import ALIASES

# Name of the file with a run's recipe, beside its model.
RECIPE = "recipe.yaml"

# Fields whose defaults depend on the machine.
_KEPT = ("use_cpu", "bf16", "fp16")

# The trainer of a recipe without a field `trainer`, and the trainer of GRPO.
SFT_TRAINER, GRPO_TRAINER = "AAJRTrainer", "AAJRGRPOTrainer"


def recipe_in(folder: Path) -> dict[str, Any]:
    """
    Read the recipe beside a model.

    Raises:
        OSError: if the file cannot be opened, for example because there is none.
        ValueError: if the file is not a recipe.
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
    """Whether a field or a key with this name holds a secret, such as an access token."""
    return name in ("token", "use_auth_token") or name.endswith("_token")


def without_secrets(value: Any) -> Any:
    """Copy a mapping or a list without its secrets, at any depth."""
    if isinstance(value, dict):
        return {key: without_secrets(part) for key, part in value.items() if not is_secret(str(key))}
    return [without_secrets(part) for part in value] if isinstance(value, list) else value


def recipe_of(args: TrainingArguments) -> dict[str, Any]:
    """
    The fields of training arguments that differ from their defaults, and the fields whose defaults depend on the
    machine, as plain values for YAML or JSON. With the same class, `type(args)(**recipe)` gives the same settings.
    """
    recipe = {}
    for field in dataclasses.fields(args):
        value = plain(getattr(args, field.name))
        # A default factory makes a new default, for example an empty container.
        factory = field.default_factory
        default = plain(field.default if factory is dataclasses.MISSING else factory())
        hidden = is_secret(field.name) or field.name in ALIASES  # aliases mirror other fields
        if field.init and not hidden and (value != default or field.name in _KEPT):
            recipe[field.name] = value
    return recipe


def with_radius(recipe: dict[str, Any]) -> dict[str, Any]:
    """
    Return a recipe in which `epsilon` is the adversary's radius, for any trainer. In a GRPO recipe, `epsilon` is TRL's
    clipping range, which becomes `clip_epsilon`.
    """
    if recipe.get("trainer") != GRPO_TRAINER:
        return recipe
    names = {"epsilon": "clip_epsilon", "perturbation_epsilon": "epsilon"}
    return {names.get(name, name): value for name, value in recipe.items()}


def plain(value: Any) -> Any:
    """
    Convert a value to JSON types, without secrets: enumerations become their values, configurations their fields, and
    other objects strings.
    """
    return without_secrets(json.loads(json.dumps(value, default=_plain)))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)
