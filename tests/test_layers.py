"""A module's folder says what it may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "aajr_hf"
ALLOWED = {
    "objective": set(),
    "environments": set(),
    "training": {"objective"},
    "evaluation": {"objective", "training"},
    "cli": {"objective", "training", "evaluation", "environments"},
}


def imported_folders(path: Path) -> set[str]:
    """Folders of the package that a module imports, however deep in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            found.add(node.module.split(".")[0])
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("aajr_hf.")}
    return found & ALLOWED.keys()


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_what_lies_below_it_alone(folder):
    modules = list((PACKAGE / folder).glob("*.py"))
    assert modules
    for module in modules:
        assert imported_folders(module) <= ALLOWED[folder] | {folder}, module.name


def test_the_objective_needs_torch_alone():
    code = "import sys, aajr_hf.objective; sys.exit(any(m in sys.modules for m in ('transformers', 'trl', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
