"""Options and fields in the pages are those that the commands have."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig
from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.help_texts import FOLDER
from aajr_hf.cli.launching.launch import LaunchArguments
from aajr_hf.cli.main import COMMANDS
from tests.support import ROOT

# Generated pages quote help texts; results and the changelog say what was true once.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "reference"),
]
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Keys of other mappings: options of PEFT, settings of a pipeline.
_NOT_FIELDS = {"init_weights", "modules_to_save", "nominal_loss", "use_safetensors"}


def _fields() -> set[str]:
    classes = (AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig, TrainArguments, LaunchArguments)
    return {f"--{field.name}" for cls in classes for field in fields(cls)}


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """By command, its options."""
    options = {name: set(_OPTION.findall((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))) for name in COMMANDS}
    for name in ("train", "inspect", "adapter-rank"):
        options[name] |= _fields() | {"--help_all"}
    # Its help names the subcommands, each of which has a help of its own.
    for file in (ROOT / "aajr_hf" / "cli" / "commands").glob("pipeline*.py"):
        options["pipeline"] |= _written(file)
    options["train"] |= set(launch_command_parser()._option_string_actions)
    return {name: found | {"--help", "--debug"} for name, found in options.items()}


def _written(file: Path) -> set[str]:
    return set(_OPTION.findall(file.read_text(encoding="utf-8"))) | {"--help"}


def _commands(text: str) -> list[str]:
    """The commands in code, each on one line."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).split("\n")]
    return lines + re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_of_the_page(page, known):
    scripts = [_written(file) for name in ("scripts", "examples") for file in (ROOT / name).glob("*.[ps][yh]")]
    anyone = set().union(*known.values(), *scripts)
    unknown = []
    for line in _commands(page.read_text(encoding="utf-8")):
        line = re.sub(r"\s#.*", "", line.replace("\n", " "))
        options = set(_OPTION.findall(line))
        if called := re.search(r"\baajr(?:_hf)? ([a-z-]+)(.*)", line):
            options, allowed = set(_OPTION.findall(called[2])), known.get(called[1], anyone)
        elif called := re.search(r"scripts/([\w-]+\.(?:py|sh))", line):
            allowed = _written(ROOT / "scripts" / called[1])
        elif line.strip().startswith("--"):
            allowed = anyone
        else:
            continue
        unknown += [(line.strip(), option) for option in sorted(options - allowed)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_fields_of_the_page_exist(page):
    """As in `epsilon_mode: relative`: the name is that of a field, in a recipe or in the settings of a pipeline."""
    known = {name.removeprefix("--") for name in _fields()}
    named = re.findall(r"`(?:\w+: )?([a-z]+_[a-z_]+): [^`]*`", page.read_text(encoding="utf-8"))
    assert {name for name in named if name not in known | _NOT_FIELDS} == set()
