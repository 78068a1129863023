"""Messages that docs/troubleshooting.md quotes are those of the code, and words of reports are in the glossary."""

from __future__ import annotations

import ast
import functools
import re

import pytest
import torch

from tests.support import ROOT

_PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
_FIRST_COLUMN = re.findall(r"^\| (`.*?`(?: \(PyTorch\))?) \|", _PAGE, flags=re.MULTILINE)
QUOTED = [quote.strip("` ") if "```" not in quote else quote[4:-4] for quote in _FIRST_COLUMN]
OWN = [quote for quote in QUOTED if "(PyTorch)" not in quote]


@functools.cache
def messages() -> list[str]:
    """All texts in the package's code; values that are filled in are `\\0`."""
    found = []
    for file in (ROOT / "aajr_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_page_quotes_what_people_meet():
    assert len(OWN) > 20 and len(QUOTED) == len(OWN) + 1
    for word in ("finite differences", "padded on the left", "... token", "FSDP", "bfloat16", "out of memory"):
        assert any(word in quote for quote in QUOTED), word


@pytest.mark.parametrize("quote", OWN)
def test_a_quoted_message_is_in_the_code(quote):
    pattern = re.compile(".*?\0.*?".join(map(re.escape, quote.split("..."))), flags=re.DOTALL)
    assert any(pattern.search(message) for message in messages())


def test_pytorch_names_a_lack_of_memory_so():
    with pytest.raises(RuntimeError, match=r"memory"):
        torch.empty(1 << 48, dtype=torch.uint8)
    assert "Out of memory" in torch.OutOfMemoryError.__doc__ or "out of memory" in torch.OutOfMemoryError.__doc__
