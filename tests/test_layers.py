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
    """Folders of the package that a module imports, however deep in it the statement stands, and however deep the module lies."""
    found, depth = set(), len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:  # as many dots as lead to the package itself
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("aajr_hf.")}
    return found & ALLOWED.keys()


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_what_lies_below_it_alone(folder):
    modules = list((PACKAGE / folder).rglob("*.py"))
    assert modules
    for module in modules:
        assert imported_folders(module) <= ALLOWED[folder] | {folder}, module


def test_nested_folders_are_read_and_every_way_to_import_is_seen(tmp_path, monkeypatch):
    assert imported_folders(PACKAGE / "evaluation/attacks/search.py") == {"objective", "training"}
    assert {path.name for path in (PACKAGE / "evaluation").rglob("*.py")} >= {"robustness.py", "search.py"}
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "evaluation/attacks").mkdir(parents=True)
    module = tmp_path / "evaluation/attacks/module.py"
    for text in (
        "from ...cli.main import main",
        "from ...cli import main",
        "from ... import cli",
        "from aajr_hf.cli.main import main",
        "from aajr_hf import cli",
        "import aajr_hf.cli.main",
        "def f():\n    from ...cli import main",
    ):
        module.write_text(text)
        assert imported_folders(module) == {"cli"}, text
    for text in ("from ..cli import main", "from .cli import main", "import cli", "from torch import cli"):
        module.write_text(text)
        assert imported_folders(module) == set(), text


def test_the_objective_needs_torch_alone():
    code = "import sys, aajr_hf.objective; sys.exit(any(m in sys.modules for m in ('transformers', 'trl', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
