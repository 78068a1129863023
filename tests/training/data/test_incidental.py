"""Words that the right call does not use: which they are, and that nothing else is changed."""

from __future__ import annotations

import pytest

from aajr_hf.evaluation.attacks.rewriting import Attacked
from aajr_hf.evaluation.attacks.suite import TEXT_ATTACKS
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.data.incidental import incidental_words, used_words
from tests.support.tool_callers import TOOLS, calling

ATTACK = TEXT_ATTACKS["incidental"]
ROWS = read_rows(
    [
        calling("Hi, I am Bob from Oslo, room 17. Dim the Den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})]),
        calling("My friend Alice (42) says: heat Hall to 20.0!", TOOLS, [("heat", {"room": "hall", "degrees": 20})]),
        calling(
            "Dim all", TOOLS, [("dim", {"room": "all"})], [{"dim": {"room": ["all", "Everywhere"], "level": ["", 0]}}]
        ),
    ]
)


def attack(kind, rows, *roles, attempt=0):
    return ATTACK(kind, attempt, rows, Attacked(None, None, roles or ("user",)))


def said(row) -> str:
    return row["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("row", "words"), [(ROWS[0], ["Bob", "Oslo", "17"]), (ROWS[1], ["Alice", "42"]), (ROWS[2], [])]
)
def test_values_of_the_call_words_of_the_schema_and_first_words_are_not_incidental(row, words):
    assert [said(row)[a:b] for a, b, _ in incidental_words(said(row), used_words(row))] == words


@pytest.mark.parametrize("kind", ATTACK.kinds)
def test_the_words_are_replaced_within_their_type_and_the_row_is_judged_as_before(kind):
    for attempt in range(10):
        found = attack(kind, ROWS, attempt=attempt)
        assert found[2] is None  # nothing to replace
        for row, one in zip(ROWS[:2], found[:2], strict=True):
            assert one.wanted is None and one.row | {"prompt": row["prompt"]} == row
            before, after = (said(each).split() for each in (row, one.row))
            changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
            assert changed
            for a, b in changed:
                if kind == "masked":
                    assert b.strip("(),.") in ("[NUMBER]", "[NAME]")
                else:
                    assert a.strip("(),.").isdigit() == b.strip("(),.").isdigit()
            assert "3." in said(found[0].row) and "20.0" in said(found[1].row)


def test_a_row_whose_call_is_derived_from_words_is_left_alone():
    for asked, value in (("on the 2nd of March", "2023-03-02"), ("in Paris", "CDG"), ("at noon", 12)):
        (row,) = read_rows([calling(f"I am Bob, dim it {asked}", TOOLS[:1], [("dim", {"room": value})])])
        assert attack("swapped", [row, *ROWS])[0] is None


def test_only_the_named_roles_are_rewritten():
    assert attack("swapped", ROWS, "tool") == [None] * 3
