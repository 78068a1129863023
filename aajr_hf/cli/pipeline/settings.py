"""The settings of a pipeline, from a YAML file."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..common.errors import UserError


@dataclass(frozen=True)
class PipelineSettings:
    """
    Attributes:
        agent: Folder of the agent that is in use at first.
        serving: Link that the pipeline makes and that always names the agent in use. Serve the agent under this name.
        logs: Logs of the agent in use, as `aajr monitor` reads them.
        recipe: Recipe of `aajr train`.
        work: Folder of all that the steps write.
        train: Fields that replace those of the recipe.
        expected: Share of right answers to expect, in percent; None: as `aajr monitor` does.
        baseline: Log from when all was well, for `aajr monitor`.
        alpha: Probability of a false alarm.
        margin: The defence's radius, as a multiple of the estimated radius of the attack.
        epsilon: The defence's radius if no attack's radius is known; None: that of the recipe.
        examples: Held-out observations on which the agents are compared.
        attacks: Attacks of the comparison.
        nominal_loss: Points of success without attack that the new agent may lose at most.
    """

    agent: str
    serving: str
    logs: list[str]
    recipe: str
    work: str
    train: dict[str, Any] = field(default_factory=dict)
    expected: float | None = None
    baseline: str | None = None
    alpha: float = 0.01
    margin: float = 1.1
    epsilon: float | None = None
    examples: int = 128
    attacks: list[str] = field(default_factory=lambda: ["all"])
    nominal_loss: float = 2.0

    @property
    def current(self) -> Path:
        """Folder of the agent in use."""
        link = Path(self.serving)
        return link.resolve() if link.is_symlink() else Path(self.agent)


_NUMBERS = {
    "expected": (0, 100),
    "alpha": (0, 1),
    "margin": (0, math.inf),
    "epsilon": (0, math.inf),
    "examples": (0, math.inf),
}


def read_settings(file: Path) -> PipelineSettings:
    """
    Read the settings. Paths in the file are relative to the current folder, as in recipes.

    Raises:
        UserError: if the file cannot be read or a setting is wrong; names the file and the setting.
    """
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    known = {field.name: field for field in fields(PipelineSettings)}
    if not isinstance(given, dict):
        raise UserError(f"{file} holds no settings: give a mapping with {', '.join(known)}.")
    if unknown := next((name for name in given if name not in known), None):
        raise UserError(f"{file}: unknown setting `{unknown}`: choose from {', '.join(known)}.")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise UserError(f"{file}: `{name}` is missing.")
    _check_types(file, given)
    settings = PipelineSettings(**given)
    _check_paths(file, settings)
    return settings


def _check_types(file: Path, given: dict[str, Any]) -> None:
    for name in ("agent", "serving", "recipe", "work"):
        if not isinstance(given[name], str) or not given[name]:
            raise UserError(f"{file}: `{name}` must be a path; got {given[name]!r}.")
    for name in ("logs", "attacks"):
        value = given.get(name, ["x"])
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise UserError(f"{file}: `{name}` must be a list of texts; got {value!r}.")
    if not isinstance(given.get("train", {}), dict):
        raise UserError(f"{file}: `train` must be a mapping of fields of the recipe; got {given['train']!r}.")
    for name, (least, most) in _NUMBERS.items():
        value = given.get(name)
        if value is None and name in ("expected", "epsilon") or name not in given:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value <= most:
            upper = "" if most == math.inf else f" and up to {most}"
            raise UserError(f"{file}: `{name}` must be a number above {least}{upper}; got {value!r}.")
    loss = given.get("nominal_loss", 0.0)
    if isinstance(loss, bool) or not isinstance(loss, int | float) or not 0 <= loss <= 100:
        raise UserError(f"{file}: `nominal_loss` must be a number from 0 to 100; got {loss!r}.")


def _check_paths(file: Path, settings: PipelineSettings) -> None:
    named = [("logs", log) for log in settings.logs] + [("recipe", settings.recipe), ("baseline", settings.baseline)]
    for name, path in named:
        if path is not None and not Path(path).is_file():
            raise UserError(f"{file}: `{name}`: there is no file {path}.")
    if not settings.current.is_dir():
        raise UserError(f"{file}: `agent`: there is no folder {settings.current}.")
    link = Path(settings.serving)
    if link.exists() and not link.is_symlink():
        raise UserError(
            f"{file}: `serving`: {link} exists and is no link: give a name that is free, or the link of an earlier run."
        )
