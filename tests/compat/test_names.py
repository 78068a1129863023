"""Names that other libraries do not promise: they are where the table says, and no file relies on one that is not in it."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import aajr_hf
from aajr_hf._compat.names import NAMES, Name

PACKAGE = Path(aajr_hf.__file__).parent
# Of named tuples, whose documentation has them.
PUBLIC = {"_asdict", "_replace", "_fields", "_make"}
# Names in the table that objects of the package, or public objects, have as well.
OF_OTHERS = {"__init__", "aux_loss", "beta", "chat_template", "loss_type", "padding_free", "temperature"}


def is_private(name: object) -> bool:
    return isinstance(name, str) and re.match("_[A-Za-z]", name) is not None and name not in PUBLIC


# What the installed libraries have


def resolve(path: str) -> object | None:
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return None


def set_on_self(tree: ast.AST) -> set[str]:
    """The attributes that methods give their instances."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


@functools.cache
def source_of(cls: type) -> ast.AST:
    """A class as it is written; nothing for one that is written in C or made by a decorator."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return ast.Module([], [])


def names_of_instances(cls: type) -> set[str]:
    """What instances of a class have, by its own body alone."""
    return {*vars(cls), *vars(cls).get("__annotations__", {}), *set_on_self(source_of(cls))}


def problem(entry: Name) -> str | None:
    """What a release has moved, in a sentence that says who needs it and what for; None where all is as it was."""
    files = " and ".join(f"aajr_hf/{file}" for file in entry.files)
    needed = f"{files} need{'' if len(entry.files) > 1 else 's'} it {entry.why}."
    owner = resolve(entry.owner)
    if owner is None:
        return f"There is no {entry.owner} any more, which had `{entry.name}`: {needed}"
    found = getattr(owner, entry.name, None)
    classes = owner.__mro__ if isinstance(owner, type) else ()
    if found is None and not any(entry.name in names_of_instances(cls) for cls in classes):
        return f"{entry.owner} has no `{entry.name}` any more: {needed}"
    if entry.parameters is None:
        return None
    parameters = tuple(name for name in inspect.signature(found).parameters if name != "self")
    if parameters == entry.parameters:
        return None
    return f"{entry.owner}'s `{entry.name}` takes {parameters} now, and not {entry.parameters}: {needed}"


@pytest.mark.slow
@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: f"{entry.owner}.{entry.name}")
def test_the_installed_release_has_it(entry):
    assert problem(entry) is None


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "message"),
    [
        ("transformers.Trainer", "_norm", None, r"transformers\.Trainer has no `_norm` any more: aajr_hf/f\.py needs it to test\."),
        ("transformers.Gone", "_norm", None, r"There is no transformers\.Gone any more, which had `_norm`: .* needs it to test\."),
        ("transformers.Trainer", "_save", ("folder",), r"`_save` takes \('output_dir', 'state_dict'\) now, and not \('folder',\)"),
        ("trl.SFTTrainer", "_nothing_sets_this", None, r"trl\.SFTTrainer has no `_nothing_sets_this` any more"),
    ],
)  # fmt: skip
def test_what_a_release_moved_is_said_in_a_sentence(owner, name, parameters, message):
    assert re.search(message, problem(Name(owner, name, "to test", ("f.py",), parameters)))


# What the package uses


def private_names(tree: ast.AST) -> set[str]:
    """Private names that a module reads, sets, calls with or imports from elsewhere, on whatever object."""
    found: set[object] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword):
            found.add(node.arg)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            found.add(getattr(node.args[1], "value", None))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {*node.module.split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
    return {name for name in found if is_private(name)}


def defined_names(tree: ast.AST) -> set[str]:
    """Names of functions, classes, variables and attributes of `self` that a module defines."""
    nodes = list(ast.walk(tree))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return functions | variables | set_on_self(tree)


def foreign_names(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(file, private name) for each name that no file defines: it is another library's."""
    trees = {file: ast.parse(source) for file, source in sources.items()}
    own = {name for tree in trees.values() for name in defined_names(tree)}
    return {(file, name) for file, tree in trees.items() for name in private_names(tree) - own}


def shared_names(classes: list[type]) -> set[tuple[str, str]]:
    """(file, private name) for each name that a class of the package shares with a class of another library above it."""
    found = set()
    for cls in classes:
        ours = [base for base in cls.__mro__ if base.__module__.startswith("aajr_hf")]
        theirs = [base for base in cls.__mro__ if base not in ours]
        names = {name for base in theirs for name in names_of_instances(base) if is_private(name)}
        for base in ours:
            file = "/".join(base.__module__.split(".")[1:]) + ".py"
            found |= {(file, name) for name in defined_names(source_of(base)) & names}
    return found


def modules() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}


def classes() -> list[type]:
    names = [module.name for module in pkgutil.walk_packages(aajr_hf.__path__, "aajr_hf.")]
    loaded = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {value for module in loaded for value in vars(module).values() if isinstance(value, type)}
    return [cls for cls in found if cls.__module__.startswith("aajr_hf")]


@pytest.mark.slow
def test_no_file_relies_on_a_private_name_that_the_table_lacks():
    known = {
        (file, name)
        for entry in NAMES
        for file in entry.files
        for name in (entry.name, *entry.owner.split("."), *(entry.parameters or ()))
    }
    missing = sorted((foreign_names(modules()) | shared_names(classes())) - known)
    assert [f"aajr_hf/{file} uses `{name}`, which aajr_hf/_compat/names.py lacks." for file, name in missing] == []


def tabled_names(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(file, name) for each name of the table that a file reads or sets on an object, or imports."""
    known, found = {entry.name for entry in NAMES} - OF_OTHERS, set()
    for file, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                found.add((file, node.attr))
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found |= {(file, alias.name) for alias in node.names}
    return {(file, name) for file, name in found if name in known}


@pytest.mark.slow
def test_the_table_has_every_file_that_uses_one_of_its_names():
    """Names without an underscore, too, which look public."""
    listed = {(file, entry.name) for entry in NAMES for file in entry.files}
    assert sorted(tabled_names(modules()) - listed) == []


def test_an_import_and_an_attribute_are_uses():
    text = "from trl.data_utils import common_prefix_length\ntrainer.push_in_progress = None\nfrom .here import get_tp_size"
    assert tabled_names({"f.py": text}) == {("f.py", "common_prefix_length"), ("f.py", "push_in_progress")}


def test_every_file_of_the_table_uses_the_name():
    sources = modules()
    unused = [(file, entry.name) for entry in NAMES for file in entry.files if entry.name not in sources.get(file, "")]
    assert unused == []
