"""Variants of rows: given in a column, or other incidental words of tool calls; never what the answer uses."""

from __future__ import annotations

from aajr_hf.environments import expert_rows
from aajr_hf.training.data.variants import DRAWS, with_variants
from tests.support.tool_callers import TOOLS, calling

CALL = calling("Hi, I am Bob from Oslo, room 17. Dim den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})])
OTHER = calling("My friend Alice (42) says: heat hall to 20.0!", TOOLS, [("heat", {"room": "hall", "degrees": 20})])


def said(row) -> str:
    return row["prompt"][-1]["content"]


def test_given_variants_stand_in_place_of_what_the_user_said_last():
    rows = expert_rows("congestion", 3, seed=0, variants=2)
    system = {"role": "system", "content": "You share."}
    rows[1]["prompt"] = [system, *rows[1]["prompt"]]
    rows[2]["variants"] = []  # and what is equal to the row is left out
    rows[0]["variants"][1] = said(rows[0])
    groups = with_variants(rows, 0)
    assert [list(map(said, group)) for group in groups] == [
        [said(rows[0]), rows[0]["variants"][0]],
        [said(rows[1]), *rows[1]["variants"]],
    ]
    assert all(row["prompt"][0] == system and row["completion"] == rows[1]["completion"] for row in groups[1])


def test_incidental_words_of_calls_are_swapped_and_used_ones_stay():
    (first, second) = with_variants([CALL, OTHER, calling("Dim all", TOOLS, [("dim", {"room": "all"})])], 0)
    assert len(first) == len(second) == 1 + DRAWS
    for variant in first[1:]:
        words = said(variant).split()
        assert (words[:3], words[6], words[8:]) == (["Hi,", "I", "am"], "room", ["Dim", "den", "to", "3."])
        assert words[3] == "Alice" or words[3] == "Oslo" or words[3] == "Bob"
        assert len(words[7]) == len("17.") and words[7] not in ("17.", "3.")
        assert variant["completion"] == first[0]["completion"]
    assert all(said(variant).endswith("heat hall to 20.0!") for variant in second)
    assert len(set(map(said, first))) > 2 and with_variants([CALL, OTHER], 0)[0] != with_variants([CALL, OTHER], 1)[0]


def test_rows_of_messages_end_with_their_answer_and_texts_have_no_variants():
    row = expert_rows("commons", 1, seed=0, variants=1)[0]
    messages = {"messages": row["prompt"] + row["completion"], "variants": row["variants"]}
    assert with_variants([messages], 0)[0][1]["completion"] == row["completion"]
    assert with_variants([{"messages": row["prompt"], "variants": row["variants"]}], 0) == []
    assert with_variants([{"prompt": "hi", "completion": "ho", "variants": ["he"]}, {"text": "hi"}], 0) == []
