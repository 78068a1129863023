"""docs/theory.md names files and functions: all of them exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

THEORY = (ROOT / "docs" / "theory.md").read_text()
NAMED = re.findall(r"`((?:aajr_hf|tests)/[\w/]+\.py)(?:: ([\w.]+))?`", THEORY)


def defined(file: Path) -> set[str]:
    """The functions and classes of a file, methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_what_is_named_exists(file, name):
    assert (ROOT / file).is_file()
    assert not name or name in defined(ROOT / file)


def test_nothing_is_named_in_another_way():
    assert len(NAMED) > 25
    assert len(NAMED) == len(re.findall(r"\w+\.py", THEORY))
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\((?!http)([^)#]+)", THEORY))


@pytest.mark.parametrize("number", [6, 11, 12, 13, 20, 21, 25])
def test_the_numbered_equations_are_there(number):
    assert f"| ({number}) |" in THEORY
