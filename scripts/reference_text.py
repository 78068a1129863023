"""Docstrings of this package as Markdown."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"^(Args|Attributes|Parameters|Returns|Raises|Yields):$")
# An entry of a section: a name, or several, or an error, and a colon.
_ENTRY = re.compile(r"^([\w*]+(?:, [\w*.]+)*(?: \([^)]*\))?):(?: |$)(.*)")


def documented(value, name: str) -> str:
    """Return the docstring of a public name; end the program if it has none of its own."""
    text = inspect.getdoc(value) if inspect.ismodule(value) or inspect.isroutine(value) else value.__doc__
    # A dataclass without a docstring gets one that repeats its signature.
    if not text or text.startswith(f"{getattr(value, '__name__', '')}("):
        raise SystemExit(f"error: {name} is public and has no docstring")
    return text


def markdown(text: str) -> str:
    """Return a docstring as Markdown: sections become lists, references to other names become code."""
    lines, inside = [], False
    for line in inspect.cleandoc(text).split("\n"):
        if section := _SECTION.match(line):
            lines += [f"**{section[1]}**", ""]
            inside = True
        elif inside and line and not line.startswith(" "):
            lines += [line]
            inside = False
        elif inside:
            lines.append(_of_section(line))
        else:
            lines.append(line)
    text = re.sub(r"\[`~?([^`]*)`\]", r"`\1`", "\n".join(lines))
    return text.replace("<", "&lt;") if "`" not in text else text


def _of_section(line: str) -> str:
    """Return a line of a section: an entry as an item of a list, what goes on from it indented."""
    text, depth = line.strip(), len(line) - len(line.lstrip())
    if depth == 4 and (entry := _ENTRY.match(text)):
        return f"- `{entry[1]}`: {entry[2]}".rstrip()
    if depth == 4 and text.startswith("> "):
        return f"*{text[2:]}*"
    return f"  {line[4:]}" if depth > 4 else text


def parameters(text: str) -> dict[str, str]:
    """Return the meanings of the parameters in a docstring of Transformers' style."""
    entries = re.split(r"^ {4}(\w+) \(`.*\):$", inspect.cleandoc(text), flags=re.MULTILINE)[1:]
    # An entry ends where another group begins.
    return {name: meaning.split("\n\n")[0].strip() for name, meaning in zip(entries[::2], entries[1::2], strict=True)}


def row(*cells: str) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).strip().replace("|", "\\|") for cell in cells) + " |"
