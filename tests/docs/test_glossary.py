"""Reports and model cards use the words of the glossary."""

from __future__ import annotations

import re

import pytest

from aajr_hf.evaluation.reporting.report import _OTHER_COLUMNS
from aajr_hf.evaluation.reporting.results import DECODINGS
from tests.support import ROOT

_PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
_CARDS = "".join(
    (ROOT / "aajr_hf" / "training" / "sharing" / f"{name}_card.py").read_text(encoding="utf-8")
    for name in ("model", "world", "tool_call")
)
# Words of the cards' tables and sentences.
OF_CARDS = [
    *("greedy", "sampled", "success", "nominal", "worst case", "training radius", "held-out observations", "ascent"),
    *("attacks in words", "valid", "exact", "recipe", "adversary", "amplification", "Jacobian"),
]


def explained() -> set[str]:
    """The words in bold, those in italics, and those of which another part is in italics."""
    words = [part.strip() for bold in re.findall(r"\*\*(.*?)\*\*", _PAGE) for part in bold.split(",")]
    return {word.lower() for word in [*words, *re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", _PAGE)]}


@pytest.mark.parametrize("column", [" ".join(words) for words in _OTHER_COLUMNS] + list(DECODINGS))
def test_columns_of_the_report_are_explained(column):
    assert column in explained()


@pytest.mark.parametrize("word", OF_CARDS)
def test_words_of_the_card_are_explained(word):
    assert word in _CARDS, "the cards no longer use this word"
    assert word.lower() in explained()
