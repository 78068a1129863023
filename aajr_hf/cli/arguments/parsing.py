"""Parser of recipes with one-line errors."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from ..._errors import one_line
from ...training.config.recipe import is_secret, plain
from ..common.errors import UserError
from .old_names import today
from .options import HelpFormatter
from .recipes import beside_recipes, recipe_file

_COMMON_FIELDS = "common fields of the trainer"
_OTHER_FIELDS = "other fields of TRL's SFTConfig and of transformers.TrainingArguments"

# Transformers' configurations have 150 fields, whose types are read from strings each time.
_type_hints = functools.cache(get_type_hints)


class _RecipeLoader(yaml.SafeLoader):
    """YAML loader that rejects repeated keys, and aliases, a few lines of which can expand to gigabytes."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError(f"aliases such as *{self.peek_event().anchor} are not supported: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"it contains `{key}` more than once")
        return super().construct_mapping(node, deep)


def read_recipe(path: Path) -> dict[str, object]:
    """
    Read the fields of a recipe.

    Raises:
        UserError: if the file is not a valid recipe.
    """
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _yaml_problem(error)
        raise UserError(f"`--config`: {path} cannot be read: {reason}") from error
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise UserError(f"`--config`: {path} must be a YAML mapping of field names to values.")
    return recipe


def _yaml_problem(error: Exception) -> str:
    """Return the problem and its line number, but not the text of the line, which may contain a token."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return one_line(error)


def _fits(value: object, hint: object) -> bool:
    """Return whether a YAML value fits a type. Strings always fit, because argparse converts them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if hint in (Any, object) or isinstance(value, str) or origin is Literal:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, bool)  # `resume_from_checkpoint: true`
    if (origin or hint) in (list, tuple):
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value if arguments)
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True


def options_of(fields: dict[str, Any]) -> list[str]:
    """Return the command line that sets these fields: after the user's own options, it has priority."""
    return [
        part
        for name, value in fields.items()
        for part in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]


class RecipeParser(TrlParser):
    """
    `TrlParser` for recipes. Fields come from a YAML file (`--config`) and from the command line, which has priority.
    An unknown key is an error that names the most similar valid key. `--help` shows the fields of this package and a
    few common ones; `--help_all` also shows the two hundred fields of TRL and Transformers.
    """

    def __init__(self, dataclass_types: Iterable[type], *, common: Iterable[str] = (), **kwargs):
        self._common = set(common)
        self._field_groups: dict[str, argparse._ArgumentGroup] = {}
        # File and fields of the recipe, set when it has been read.
        self._file: str | None = None
        self._recipe: dict[str, object] = {}
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        # TrlParser removes `--config` from the arguments itself. It is declared here so that the help shows it.
        self.add_argument("--config", metavar="RECIPE", help="YAML file with values for any of the fields below")
        # The help text of Transformers says that this field is not used.
        if "--resume_from_checkpoint" in self._option_string_actions:
            help_text = (
                "Checkpoint to go on from, or `auto`: the newest complete one in `output_dir`, if there is one."
            )
            self._option_string_actions["--resume_from_checkpoint"].help = help_text
        self.add_argument("--help_all", action="help", help="show all fields, those of TRL and Transformers included")

    def _add_dataclass_arguments(self, dtype: type) -> None:
        hints = _type_hints(dtype)
        for field in dataclasses.fields(dtype):
            field.type = hints[field.name]
            owner = next(cls for cls in dtype.__mro__ if field.name in vars(cls).get("__annotations__", {}))
            title = getattr(owner, "_argument_group_name", _OTHER_FIELDS)
            title = _COMMON_FIELDS if title == _OTHER_FIELDS and field.name in self._common else title
            if title not in self._field_groups:
                self._field_groups[title] = self.add_argument_group(title)
            self._parse_dataclass_field(self._field_groups[title], field)

    def format_help(self) -> str:
        hidden = self._field_groups.get(_OTHER_FIELDS)
        if hidden is None or "--help_all" in sys.argv:
            return super().format_help()
        shown, self._action_groups = self._action_groups, [g for g in self._action_groups if g is not hidden]
        try:
            return super().format_help()
        finally:
            self._action_groups = shown

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse(self, argv: list[str]) -> tuple:
        """
        Parse a command line into dataclass instances.

        Raises:
            UserError: for an unreadable recipe, an unknown key, or an invalid value of a field.
        """
        argv = self.check(argv)
        os.environ |= {name: str(value) for name, value in self._recipe.get("env", {}).items()}
        try:
            parsed = self.parse_args_into_dataclasses(argv)
        except UserError:
            raise
        except Exception as error:  # classes of other libraries raise all kinds of errors
            raise UserError(one_line(error)) from error
        # The last element is the namespace of --config.
        return tuple(parsed[: len(self.dataclass_types)])

    def given(self, argv: list[str], parsed: Iterable[object]) -> dict[str, object]:
        """
        Return the fields set by the recipe or the command line, with their values in the dataclass instances, but
        without secrets.
        """
        names = {
            action.dest for item in argv for action in [self._option_string_actions.get(item.split("=")[0])] if action
        }
        names |= self._recipe.keys()
        fields = {
            name: plain(getattr(part, name))
            for part in parsed
            for name in names
            if hasattr(part, name) and not is_secret(name)
        }
        return {name: fields[name] for name in self._field_names() if name in fields}

    def check(self, argv: list[str]) -> list[str]:
        """
        Read the recipe, use its fields as defaults, and reject unknown keys and options. Return the arguments, with
        `--config=RECIPE` split in two.
        """
        argv = [part for item in argv for part in (item.split("=", 1) if item.startswith("--config=") else [item])]
        if "--config" in argv:
            self._read(argv[argv.index("--config") + 1 :])
        _, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [item.split("=")[0] for item in unknown if item.startswith("-")]
            raise UserError(self._unknown((flags or unknown)[0].lstrip("-"), "option"))
        return argv

    def _read(self, following: list[str]) -> None:
        """Read and check the recipe named by the first of the arguments, unless it was read before."""
        if not following:
            raise UserError("`--config` needs the path or the name of a recipe.")
        if following[0] == self._file:
            return
        path = recipe_file(following[0])
        recipe = {name: beside_recipes(self._meant(name, value)) for name, value in read_recipe(path).items()}
        self._check_recipe(recipe, path)
        self.set_defaults_with_config(**recipe)
        self._file, self._recipe = following[0], recipe

    def _meant(self, name: str, value: object) -> object:
        """The value of a field of a recipe, in which YAML reads a bare `no` or `off` as false."""
        if value is not False:
            return value
        choices = next((action.choices or () for action in self._actions if action.dest == name), ())
        words = ("none",) if name == "report_to" else tuple(map(str, choices))
        return next((word for word in ("no", "none") if word in words), value)

    def _check_recipe(self, recipe: dict[str, object], path: Path) -> None:
        environment = recipe.get("env", {})
        if not isinstance(environment, dict) or any(
            "=" in str(k) or isinstance(v, dict | list) for k, v in environment.items()
        ):
            raise UserError("`env` must be a mapping of environment variables to their values.")
        for key in recipe:
            if key != "env" and key not in self._field_names():
                raise UserError(self._unknown(str(key), f"key in {path}"))
        # The fields of the recipe become defaults, which argparse does not check, so they are checked here.
        for action in self._actions:
            if action.dest in recipe:
                self._check_recipe_value(action, recipe[action.dest])

    def _check_recipe_value(self, action: argparse.Action, value: object) -> None:
        name = action.dest
        hints = [_type_hints(cls)[name] for cls in self.dataclass_types if name in cls.__dataclass_fields__]
        if not all(_fits(value, hint) for hint in hints):
            kind = getattr(hints[0], "__name__", None) if isinstance(hints[0], type) else str(hints[0])
            raise UserError(f"`{name}` must be of the type {kind}{'' if is_secret(name) else f'; got {value!r}'}.")
        if action.choices is not None and isinstance(value, str | bool) and value not in map(str, action.choices):
            raise UserError(f"`{name}` must be one of {', '.join(map(str, action.choices))}; got {value!r}.")

    def _field_names(self) -> list[str]:
        return [action.dest for action in self._actions if action.dest not in ("help", "help_all", "config")]

    def _unknown(self, name: str, kind: str) -> str:
        shown = name if name.isprintable() else repr(name)
        if (answer := today(name)) is not None:
            return f"unknown {kind}: `{shown}`; {answer}."
        nearest = difflib.get_close_matches(name.replace("-", "_"), self._field_names(), n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"see {self.prog} --help for the valid ones."
        return f"unknown {kind}: `{shown}`; {hint}"
