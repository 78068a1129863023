"""The trainer that a command line or a recipe of `aajr train` names, and the fields of its configuration."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from ...training.config.base import AAJRConfigMixin
from ...training.config.dpo import AAJRDPOConfig
from ...training.config.grpo import AAJRGRPOConfig
from ...training.config.sft import AAJRConfig
from ..common.errors import UserError
from .parsing import read_recipe

CONFIGS: dict[str, type[AAJRConfigMixin]] = {"sft": AAJRConfig, "dpo": AAJRDPOConfig, "grpo": AAJRGRPOConfig}


def trainer_named(argv: list[str]) -> str:
    """
    Return the key of [`CONFIGS`] that `--trainer` names, or else the recipe, or else `sft`. It decides which fields
    there are, so it is read before them. A recipe beside a model names the trainer's class instead.

    Raises:
        UserError: if there is no such trainer.
    """
    given = _last(argv, "--trainer")
    if given is None and (recipe := _last(argv, "--config")) is not None and Path(recipe).is_file():
        given = read_recipe(Path(recipe)).get("trainer")
    for name, config in CONFIGS.items():
        if given in (None, name, config.__name__.replace("Config", "Trainer")):
            return name
    raise UserError(f"`trainer` must be one of {', '.join(CONFIGS)}; got {given!r}.")


def _last(argv: list[str], option: str) -> str | None:
    """Return the last value of an option."""
    found = None
    for item, following in zip_longest(argv, argv[1:]):
        flag, has_value, value = item.partition("=")
        if flag == option:
            found = value if has_value else following
    return found
