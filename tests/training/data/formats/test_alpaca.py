"""Alpaca's instructions."""

from __future__ import annotations

import pytest

from aajr_hf.training.data.formats.alpaca import alpaca_row
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.schema import check_row


def said(row: dict) -> list[tuple[str, str]]:
    made = alpaca_row(row)
    assert check_row(made) == "prompt and completion as messages"
    return [(message["role"], message["content"]) for message in made["prompt"] + made["completion"]]


def test_the_input_stands_below_the_instruction_and_the_history_before():
    row = {"instruction": "Add", "output": "3"}
    assert said(row) == [("user", "Add"), ("assistant", "3")]
    assert said(row | {"input": " "}) == said(row | {"input": None}) == said(row)
    assert said(row | {"input": "1 2"})[0] == ("user", "Add\n1 2")
    assert said(row | {"history": [["a", "b"], ("c", "d")]}) == [
        *(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        *said(row),
    ]
    assert len(alpaca_row(row | {"history": [["a", "b"]]})["prompt"]) == 1  # the answers of the history are actions


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": ""}, "needs `instruction`, a text"),
        ({"output": ""}, "needs `output`, a text"),
        ({"input": {"a": 1}}, "`input` must be a text"),
        ({"history": "a"}, "`history` must be a list of pairs"),
        ({"history": [["a"]]}, "`history` must be a list of pairs"),
        ({"history": [["a", None]]}, "`history` must be a list of pairs"),
    ],
    ids=str,
)
def test_rows_that_are_none(row, reason):
    with pytest.raises(RowError) as error:
        alpaca_row({"instruction": "a", "output": "b"} | row)
    assert reason in str(error.value)
