"""A folder says what it holds, and what its modules may import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_SHARING = {"training/sharing", "training/sharing/results"}
_MEASURED = {"evaluation", "evaluation/attacks", "evaluation/reporting"}
_POLICY = {"objective", "training/config", "training/data", "training/policy"}
# Folder -> the folders that its modules import, beside its own: no more and no fewer, so that the table can be read.
ALLOWED = {
    "_compat": set(),
    "objective": {"_compat"},
    "environments": set(),
    "training/config": {"_compat"},
    "training/data": {"environments", "training/config", "training/data/formats", "training/data/reading"},
    "training/data/formats": {"training/data/reading"},
    "training/data/reading": set(),
    "training/policy": {"objective", "training/config", "training/data"},
    "training/models": {"training/config", "training/data"},
    "training/adversary": _POLICY | {"training/runs"},
    "training/runs": {"training/config"},
    "training/sharing": {"training/config", "training/sharing/results"},
    "training/sharing/results": set(),
    "training/trainers": {
        *("_compat", "training/adversary", "training/config", "training/data", "training/models", "training/policy"),
        *("training/runs", "training/sharing"),
    },
    "training": set(),
    "evaluation": {"training/data", "training/models", "training/runs"},
    "evaluation/reporting": {"evaluation", "training/data"} | _SHARING,
    "evaluation/attacks": _POLICY | {"evaluation", "training/trainers"},
    "evaluation/robustness": _POLICY | _MEASURED | _SHARING | {"training/adversary"},
    "evaluation/tool_calls": _MEASURED
    | _SHARING
    | {"evaluation/robustness"}
    | {"training/data", "training/data/reading", "training/policy"},
    "evaluation/episodes": {
        *("environments", "guard", "training/data", "training/policy", "training/sharing/results"),
    }
    | _MEASURED,
    "guard": {"environments", "evaluation", "evaluation/reporting", "training/data", "training/policy"} | _SHARING,
    "evaluation/monitoring": {
        *("evaluation", "evaluation/reporting", "training/data", "training/sharing/results"),
    },
    "evaluation/comparison": {"evaluation", "evaluation/reporting", "training/config", "training/runs"} | _SHARING,
    "evaluation/adapter_rank": {
        *("evaluation/reporting", "objective", "training/adversary", "training/models", "training/policy"),
        *("training/sharing/results", "training/trainers"),
    },
    "cli/common": {"evaluation", "training/config"} | _SHARING,
    "cli/arguments": {
        *("_compat", "cli/common", "environments", "evaluation", "evaluation/attacks", "training/config"),
        *("training/data", "training/data/formats", "training/models", "training/runs"),
    },
    "cli/launching": {"_compat", "cli/arguments", "cli/common", "evaluation"},
    "cli/pipeline": {"cli/common", "evaluation", "evaluation/reporting", "training/runs"},
    "cli/commands": {
        *("_compat", "cli/arguments", "cli/common", "cli/launching", "cli/pipeline", "environments"),
        *("guard", "training/adversary"),
        *("training/config", "training/data", "training/data/formats", "training/models", "training/runs"),
        *("training/policy", "training/trainers"),
        *("evaluation/adapter_rank", "evaluation/comparison", "evaluation/episodes", "evaluation/robustness"),
        *("evaluation/monitoring", "evaluation/tool_calls"),
    }
    | _MEASURED
    | _SHARING,
    "cli": {"cli/common", "cli/launching"},
}
# What modules import by name at run time (`import_module`), so that a command or `import aajr_hf` does not wait for
# libraries that it does not need. No statement shows it, but it counts for circles.
BY_NAME = {"cli": {"cli/commands"}, "training": {"training/config", "training/trainers"}}


def folder_of(module: tuple[str, ...], package: Path) -> str | None:
    """The folder of a module, a package or a name in one of them, given by its parts below the package; None for the package itself."""
    while module and not package.joinpath(*module).is_dir():
        module = module[:-1]
    return "/".join(module) or None


def imported_folders(path: Path, package: Path) -> set[str]:
    """Folders of the package that a module imports, however deep in it the statement stands, and however deep the module lies."""
    here, found = path.relative_to(package).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom) and node.level <= len(here) + 1:
            inside = here[: len(here) + 1 - node.level] if node.level else ()
            parts = (*inside, *(node.module or "").split(".")) if node.module else inside
            modules = [(*parts, alias.name) for alias in node.names] if node.level or parts[0] == "aajr_hf" else []
            modules = modules if node.level else [module[1:] for module in modules]
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("aajr_hf.")]
        found |= {folder_of(module, package) for module in modules}
    return found - {"/".join(here), None}


def folders(package: Path) -> dict[str, set[str]]:
    """Folder of the package -> the folders that its modules import."""
    found: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        if folder := "/".join(path.relative_to(package).parts[:-1]):
            found.setdefault(folder, set()).update(imported_folders(path, package))
    return found


def cycle(imports: dict[str, set[str]]) -> list[str]:
    """Folders that import each other in a circle; none where there is no such circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_each_folder_imports_what_the_table_says():
    imports = folders(ROOT / "aajr_hf")
    assert imports.keys() == ALLOWED.keys()
    beyond = {folder: found - ALLOWED[folder] for folder, found in imports.items()}
    unused = {folder: ALLOWED[folder] - found for folder, found in imports.items()}
    assert ({f: s for f, s in beyond.items() if s}, {f: s for f, s in unused.items() if s}) == ({}, {})


def test_no_folder_imports_another_that_imports_it():
    assert cycle({folder: allowed | BY_NAME.get(folder, set()) for folder, allowed in ALLOWED.items()}) == []


@pytest.mark.parametrize("folder", BY_NAME)
def test_what_is_imported_by_name_is_imported_so(folder):
    files = (ROOT / "aajr_hf" / folder).glob("*.py")
    assert any("import_module(" in file.read_text() for file in files)


@pytest.mark.parametrize("folder", ["", *ALLOWED])
def test_a_folder_says_what_it_holds(folder):
    assert ast.get_docstring(ast.parse((ROOT / "aajr_hf" / folder / "__init__.py").read_text()))


def test_the_table_of_places_names_files_that_are_there():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things live")[1].split("\n## ")[0]
    places = [
        place
        for line in table.splitlines()
        if line.startswith("| ") and "file |" not in line
        for place in re.findall(r"`([^`]+)`", line)
    ]
    assert {"recipes/", "aajr_hf/evaluation/attacks/suite.py"} <= set(places)
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.fixture
def package(tmp_path):
    for folder in ("cli/commands", "evaluation/attacks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "cli/main.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("from ...cli.main import main", "cli"),
        ("from ...cli import main", "cli"),
        ("from ... import cli", "cli"),
        ("from ...cli.commands import train", "cli/commands"),
        ("from ...cli import commands", "cli/commands"),
        ("from .. import agents", "evaluation"),
        ("from ..agents import load", "evaluation"),
        ("from aajr_hf.cli.main import main", "cli"),
        ("from aajr_hf import cli", "cli"),
        ("import aajr_hf.cli.main", "cli"),
        ("def f():\n    from ...cli import main", "cli"),
        ("from ... import __version__", None),
        ("from .cli import main", None),
        ("import cli", None),
        ("from torch import cli", None),
    ],
)
def test_every_way_to_import_is_seen_in_nested_folders(package, text, imported):
    (package / "evaluation/attacks/module.py").write_text(text)
    assert folders(package)["evaluation/attacks"] == ({imported} if imported else set())


def test_a_circle_is_seen(package):
    (package / "evaluation/attacks/module.py").write_text("from ...cli.main import main")
    assert cycle(folders(package)) == []
    (package / "cli/commands/module.py").write_text("from ...evaluation.attacks import module")
    (package / "cli/module.py").write_text("from .commands import module")
    assert set(cycle(folders(package))) == {"cli", "cli/commands", "evaluation/attacks"}


@pytest.mark.slow
def test_the_objective_needs_torch_alone():
    code = "import sys, aajr_hf.objective; sys.exit(any(m in sys.modules for m in ('transformers', 'trl', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
