"""The reference is that of the code."""

from __future__ import annotations

import ast
import re

import pytest
import reference
import reference_results
import reference_text

from tests.support import ROOT


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def test_the_pages_are_current(pages):
    written = {file.name: file.read_text(encoding="utf-8") for file in reference.FOLDER.glob("*.md")}
    assert written == pages, "python scripts/reference.py"


def test_a_public_name_without_a_docstring_is_refused():
    def undocumented():
        pass

    with pytest.raises(SystemExit, match="mine.undocumented is public and has no docstring"):
        reference_text.documented(undocumented, "mine.undocumented")


def test_a_field_of_a_result_file_without_a_meaning_is_refused():
    (cls,) = ast.parse(
        'class Mine(TypedDict):\n    """\n    Mine.\n\n    Attributes:\n        a: A.\n    """\n    a: int\n    b: int'
    ).body
    with pytest.raises(SystemExit, match="docstring of Mine does not say what b is"):
        reference_results._table(cls)


def test_every_metric_that_the_code_logs_is_described(pages):
    logged = set()
    for file in (ROOT / "aajr_hf" / "training").rglob("*.py"):
        code = ast.parse(file.read_text(encoding="utf-8"))
        texts = [
            node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        logged |= {text for text in texts if re.fullmatch(r"aajr/\w*[a-z]", text)}
    assert len(logged) > 25
    assert {name for name in logged if f"`{name}`" not in pages["metrics.md"]} == set()
