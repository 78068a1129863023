"""The page of the result files, from the types of the results."""

from __future__ import annotations

import ast
import inspect
import re

from reference_text import markdown, row

from aajr_hf.training.sharing import results
from aajr_hf.training.sharing.results import (
    adapter_rank,
    comparison,
    episodes,
    guard,
    monitoring,
    parts,
    tool_calls,
    worlds,
)

# Module of types -> its file.
FILES = {
    worlds: "`results.json` of `aajr evaluate` in a world",
    tool_calls: "`results.json` of `aajr evaluate` on tool calls",
    parts: "Parts of every evaluation",
    comparison: "`comparison.json` of `aajr compare`",
    episodes: "A line of `episodes.jsonl` of `aajr simulate`",
    guard: "`guard.json` of `aajr guard`",
    monitoring: "`monitor.json` of `aajr monitor`",
    adapter_rank: "`rank.json` of `aajr adapter-rank`",
}


def page() -> str:
    text = [
        "Types of the JSON files that commands write. Shares are in percent, except single outcomes, which are from 0",
        "to 1. A field that not every file has is marked *sometimes*. `ByRadius` is an object with one value for each",
        'radius, in multiples of the training radius: `{"0.5": ..., "1": ...}`.',
    ]
    for module, title in FILES.items():
        text += ["", f"## {title}", ""]
        for cls in _classes(module):
            text += _table(cls)
    return "\n".join(text)


def _described(attributes: str) -> dict[str, str]:
    """Names and meanings in the section Attributes of a docstring."""
    found = {}
    for entry in re.split(r"\n(?=    \w)", attributes):
        names, _, meaning = re.sub(r"\s+", " ", entry).partition(":")
        found |= {name: meaning.strip() for name in re.findall(r"\w+", names)}
    return found


def _classes(module) -> list[ast.ClassDef]:
    """The types of a module: the whole file first, then its parts."""
    tree = ast.parse(inspect.getsource(module))
    return [node for node in reversed(tree.body) if isinstance(node, ast.ClassDef)]


def _table(cls: ast.ClassDef) -> list[str]:
    doc = ast.get_docstring(cls) or ""
    prose, _, attributes = doc.partition("Attributes:")
    meanings = _described(attributes)
    kinds = {node.target.id: ast.unparse(node.annotation) for node in cls.body if isinstance(node, ast.AnnAssign)}
    text = [f"### {cls.name.lstrip('_')}", ""]
    if prose:
        text += [markdown(prose), ""]
    bases = [base.id for base in cls.bases if base.id != "TypedDict"]
    if bases:
        text += [f"Also has the fields of {', '.join(_linked(base) for base in bases)}.", ""]
    if kinds:
        text += [row("field", "type", "meaning"), row("---", "---", "---")]
    for name, kind in kinds.items():
        meaning = meanings.get(name) or _of_part(kind)
        if not meaning:
            raise SystemExit(f"error: the docstring of {cls.name} does not say what {name} is, under Attributes")
        text.append(row(f"`{name}`", _kind(kind), markdown(meaning)))
    return [*text, ""]


def _of_part(kind: str) -> str:
    """The first sentence about the type that a field holds, if it has a type of its own."""
    parts = [getattr(results, word) for word in re.findall(r"\w+", kind) if word in results.__all__]
    docs = [inspect.cleandoc(part.__doc__) for part in parts if inspect.isclass(part) and part.__doc__]
    return re.sub(r"\s+", " ", docs[0].split("\n\n")[0]) if docs else ""


def _kind(text: str) -> str:
    sometimes = text.startswith("NotRequired[")
    text = text.removeprefix("NotRequired[").removesuffix("]") if sometimes else text
    links = [_linked(word) for word in re.findall(r"\w+", text) if word in results.__all__ and word != "ByRadius"]
    return f"`{text}`" + (f" ({', '.join(links)})" if links else "") + (", *sometimes*" if sometimes else "")


def _linked(name: str) -> str:
    return f"[{name.lstrip('_')}](#{name.lstrip('_').lower()})"
