"""The versions that are allowed are those that were tried: at both ends, minor for minor."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from aajr_hf._compat.names import NAMES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
# Of Python itself; and DeepSpeed, whose minors change as much, though no private name of it is used.
STANDARD, ZERO = {"argparse"}, {"deepspeed"}
DELICATE = {entry.owner.split(".")[0] for entry in NAMES} - STANDARD


def versions(file: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


NEWEST, OLDEST = versions("constraints.txt"), versions("constraints-oldest.txt")


@pytest.mark.parametrize("required", [r for r in REQUIRED if r.name != PROJECT["name"]], ids=str)
def test_both_sets_are_allowed_and_what_was_not_tried_is_not(required):
    name = canonicalize_name(required.name)
    assert required.specifier.contains(NEWEST[name]) and required.specifier.contains(OLDEST[name])
    bounds = {part.operator: Version(part.version) for part in required.specifier}
    newest = NEWEST[name].release
    if name in DELICATE:
        assert bounds[">="].release[:2] == OLDEST[name].release[:2]
    if name in DELICATE | ZERO:
        assert bounds["<"] == Version(f"{newest[0]}.{newest[1] + 1}")
    else:
        assert bounds["<"] == Version(f"{newest[0] + 1}")


def test_every_library_whose_private_names_are_used_is_required():
    assert {canonicalize_name(required.name) for required in REQUIRED} >= DELICATE


def test_the_oldest_set_differs_in_what_is_delicate_and_what_that_needs():
    differing = {name for name in OLDEST.keys() & NEWEST.keys() if OLDEST[name] != NEWEST[name]}
    assert differing - DELICATE == {"huggingface-hub", "tokenizers", "fsspec"}
    assert all(OLDEST[name] < NEWEST[name] for name in differing)
