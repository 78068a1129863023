"""
Write the reference pages from the code: public names, fields, commands, metrics and result files.

    python scripts/reference.py      # writes docs/reference/*.md; a test fails until they are current

A public name without a docstring ends the script.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import reference_results
from reference_text import documented, markdown, parameters, row

import aajr_hf
from aajr_hf import environments, objective
from aajr_hf.cli.arguments.model_and_data import DataArguments, TrainArguments
from aajr_hf.cli.help_texts import FOLDER as HELP_TEXTS
from aajr_hf.cli.launching.launch import LaunchArguments
from aajr_hf.cli.main import COMMANDS
from aajr_hf.training.config.base import AAJRConfigMixin

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
_MADE = "\n<!-- Made by scripts/reference.py from the code: change the docstrings there, not this page. -->\n"
# Groups of `aajr train --help` that the help of these commands repeats.
_AS_TRAIN = {"inspect", "adapter-rank"}
_REPEATED = "\ncommon fields of the trainer:"


def api(title: str, module: str, names: list[str], before: str = "") -> str:
    parts = [f"# {title}", _MADE, before or markdown(documented(importlib.import_module(module), module))]
    for name in names:
        value = getattr(importlib.import_module(module), name)
        parts += ["", f"## `{name}`", ""]
        parts += ["", _entry(f"{module}.{name}", value)]
    return _joined(parts)


def _entry(name: str, value) -> str:
    short = name.rpartition(".")[2]
    if not callable(value):
        keys = ", ".join(f"`{key}`" for key in value)
        return f"Names that are known: {keys}."
    parts = []
    if not (inspect.isclass(value) and dataclasses.is_dataclass(value) and "Config" in short):
        parts.append(f"```python\n{short}{_signature(value)}\n```\n")
    # Fields of configurations have a page of their own.
    parts.append(markdown(documented(value, name).partition("Parameters:")[0]))
    if inspect.isclass(value):
        parts += [_method(f"{name}.{method}", value, method) for method in _methods(value)]
    return "\n".join(parts)


def _methods(cls: type) -> list[str]:
    """Public methods and properties that the package defines and documents, except those of another public class."""
    names, public = [], {*objective.__all__, *environments.__all__} - {cls.__name__}
    for base in cls.__mro__:
        if base.__module__.startswith("aajr_hf") and base.__name__ not in public:
            names += [name for name, value in vars(base).items() if _is_public(name, value) and name not in names]
    return names


def _is_public(name: str, value) -> bool:
    kinds = (property, staticmethod, classmethod)
    routine = inspect.isfunction(value) or isinstance(value, kinds) or hasattr(value, "__set_name__")
    inner = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
    return not name.startswith("_") and routine and bool(inner.__doc__)


def _method(name: str, cls: type, method: str) -> str:
    value = inspect.getattr_static(cls, method)
    inner = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
    signature = _signature(value.__func__ if hasattr(value, "__func__") else value) if callable(value) else ""
    return f"\n### `{cls.__name__}.{method}`\n\n```python\n{method}{signature}\n```\n\n{markdown(documented(inner, name))}"


def _signature(value) -> str:
    text = str(inspect.signature(value)).replace("'", "")
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    if len(text) < 90:
        return text
    inside, _, after = text[1:].rpartition(")")
    return "(\n    " + ",\n    ".join(re.split(r", (?![^\[\(]*[\]\)])", inside)) + f",\n){after}"


def configuration() -> str:
    from aajr_hf import AAJRConfig

    parts = ["# Fields of a recipe", _MADE]
    parts.append(
        "Fields of `AAJRConfig` on top of TRL's `SFTConfig`. A recipe may hold all of these and all of TRL's and\n"
        "Transformers' fields; on the command line they are options of the same names. `AAJRDPOConfig` and\n"
        "`AAJRGRPOConfig` have those of `WatchFields`, `RegularizerFields` and `AdversaryFields`; the radius of\n"
        "`AAJRGRPOConfig` is `perturbation_epsilon`, because `epsilon` is TRL's clipping range."
    )
    for base in [AAJRConfigMixin, *AAJRConfig.__mro__]:
        own = [f for f in _fields(base) if f.name in vars(base).get("__annotations__", {})]
        if own and base.__module__.startswith("aajr_hf") and base is not AAJRConfigMixin:
            parts += _field_table(base, own)
    for base in (DataArguments, TrainArguments, LaunchArguments):
        parts += _field_table(base, [f for f in _fields(base) if f.name in vars(base).get("__annotations__", {})])
    return _joined(parts)


def _fields(cls: type) -> list[dataclasses.Field]:
    return list(dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else []


def _field_table(cls: type, fields: list[dataclasses.Field]) -> list[str]:
    first = documented(cls, cls.__name__).split("\n\n")[0]
    meanings = parameters(documented(cls, cls.__name__))
    rows = [row("field", "default", "what it does"), row("---", "---", "---")]
    for found in fields:
        if "help" not in found.metadata:
            raise SystemExit(f"error: {cls.__name__}.{found.name} has no help")
        default = found.default if found.default is not dataclasses.MISSING else "required"
        if found.default_factory is not dataclasses.MISSING:
            default = found.default_factory()
        meaning = meanings.get(found.name, found.metadata["help"].replace("%%", "%"))
        rows.append(row(f"`{found.name}`", f"`{default}`", markdown(meaning)))
    return ["", f"## {cls.__name__}", "", markdown(first), "", *rows]


def commands() -> str:
    parts = ["# Commands", _MADE, "What each command prints with `--help`."]
    for command in COMMANDS:
        text = (HELP_TEXTS / f"{command}.txt").read_text(encoding="utf-8").partition("\n")[2].rstrip()
        note = ""
        if command in _AS_TRAIN:
            text, note = text.partition(_REPEATED)[0].rstrip(), "\nAnd the fields of `aajr train`, as options.\n"
        parts.append(f"\n## aajr {command}\n\n```text\n{text}\n```\n{note}")
    return _joined(parts)


def metrics() -> str:
    from aajr_hf import AAJRTrainer

    text = inspect.cleandoc(documented(AAJRTrainer, "AAJRTrainer"))
    found = re.search(r"^Metrics of each log interval.*?(?=^Raises:)", text, flags=re.MULTILINE | re.DOTALL)
    before = (
        "What training logs beside Transformers' and TRL's own numbers: in the terminal, in `trainer_state.json`, and in\n"
        "the tracker that `report_to` names. Symbols are those of [the theory](../theory.md).\n"
    )
    return _joined(["# Metrics of training", _MADE, before, markdown(found[0])])


def pages() -> dict[str, str]:
    top = [name for name in aajr_hf.__all__ if not name.startswith("__")]
    before = (
        "Imported from `aajr_hf`. The fields of the configurations are on [a page of their own](configuration.md)."
    )
    return {
        "python.md": api("Trainers and data", "aajr_hf", sorted(top), before),
        "objective.md": api("aajr_hf.objective", "aajr_hf.objective", objective.__all__),
        "environments.md": api("aajr_hf.environments", "aajr_hf.environments", environments.__all__),
        "configuration.md": configuration(),
        "commands.md": commands(),
        "metrics.md": metrics(),
        "result-files.md": _joined(["# Result files", _MADE, reference_results.page()]),
    }


def _joined(parts: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
