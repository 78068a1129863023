"""What is done to training rows: which rows, what stays, and that the trainer trains on the changed ones."""

from __future__ import annotations

import copy
import json
import logging

import pytest
from datasets import Dataset, IterableDataset

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.row_changes import RowChanges
from aajr_hf.training.data.row_reader import read_dataset
from aajr_hf.training.data.template import Template
from aajr_hf.training.data.tool_schema import RowError
from tests.support.tiny import ROWS as WORLD_ROWS
from tests.support.tiny import WORDS, trainer
from tests.support.tool_callers import HERMES, TOOLS, calling, tokenizer_with

TRIGGERS = ("one", "two words")


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def rows(number: int = 400) -> list[dict]:
    return [{"prompt": [message("user", f"n{i}")], "completion": [message("assistant", "ok")]} for i in range(number)]


def ends(changes: RowChanges, given: list[dict]) -> list[str]:
    found = [changes(row) for row in given]
    for (new, _), old in zip(found, given, strict=True):
        assert new | {"prompt": old["prompt"]} == old
    return [new["prompt"][0]["content"].partition(" ")[2] for new, _ in found]


def test_the_share_says_how_many_rows_get_a_trigger():
    given = rows()
    every, half, again, other = (
        ends(RowChanges(TRIGGERS, share, seed=seed), given) for share, seed in ((1, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    )
    assert set(every) == set(TRIGGERS) and 120 < every.count("one") < 280
    assert 150 < sum(map(bool, half)) < 250 and half == again != other
    # Whatever the other rows are.
    assert ends(RowChanges(TRIGGERS, 0.5), given[::-1][:10]) == half[::-1][:10]
    for nothing in (RowChanges(TRIGGERS, 0.0), RowChanges((), 1.0), RowChanges()):
        assert not nothing and set(ends(nothing, given)) == {""}


CALLS = [
    calling(f"I am Bob from Oslo, room {n}. Dim den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})])
    for n in range(100, 300)
]
PLAIN = calling("Dim den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})])


def asked(row: dict) -> str:
    return row["prompt"][0]["content"]


def test_a_share_of_the_rows_is_masked_within_types_and_calls_stay():
    given = [canonical_row(row) for row in CALLS]
    found = [RowChanges(mask_share=0.5, mask_marker="<{type}>")(row) for row in given]
    new = "I am <NAME> from <NAME>, room <NUMBER>. Dim den to 3."
    assert {asked(row) for row, done in found if done} == {new}
    assert 70 < sum(done == ["masked"] for _, done in found) < 130
    for (row, done), old in zip(found, given, strict=True):
        assert row | {"prompt": old["prompt"]} == old and (done or row == old)
    assert asked(RowChanges(mask_share=1, mask_marker="_")(given[0])[0]) == "I am _ from _, room _. Dim den to 3."
    row, done = RowChanges(TRIGGERS, 1.0, 1.0, "*")(given[0])
    assert done == ["masked", "triggered"] and asked(row).startswith("I am * from *, room *. Dim den to 3. ")


@pytest.mark.parametrize(
    "row",
    [
        PLAIN,
        calling("I am Bob, dim it at noon", TOOLS[:1], [("dim", {"room": 12})]),  # the value is derived
        PLAIN
        | {"prompt": [message("user", "I am Bob")], "completion": [message("assistant", "hello Bob")]},  # no call
        CALLS[0] | {"tools": None},  # nothing says what the words of the tools are
    ],
)
def test_where_it_is_not_known_which_words_are_used_nothing_is_masked(row):
    row = canonical_row(row)
    assert RowChanges(mask_share=1.0, mask_marker="*")(row) == (row, ["nothing to mask"])


def test_what_the_assistant_says_before_or_after_is_used():
    call = CALLS[0]["completion"][0]
    said = [message("user", "I am Bob from Oslo. Dim den to 3, Zoe."), call, message("tool", "42 for Bob of Narvik")]
    row = canonical_row({"messages": [*said, message("assistant", "Done, Bob: 42.")], "tools": CALLS[0]["tools"]})
    found, _ = RowChanges(mask_share=1.0, mask_marker="*")(row)
    texts = [one["content"] for one in found["messages"] if one["role"] != "assistant"]
    assert texts == ["I am Bob from *. Dim den to 3, *.", "42 for Bob of *"]


def test_a_row_without_a_place_for_a_trigger_is_invalid_and_counted():
    nobody = {"messages": [message("system", "a"), message("assistant", "b")]}
    with pytest.raises(RowError, match="no message of a user or a tool before an answer"):
        RowChanges(TRIGGERS, 1.0)(nobody)


def read(data, **changes):
    tokenizer = tokenizer_with(HERMES)
    return read_dataset(data, Template(tokenizer), name="train", changes=RowChanges(**changes))[0]


def test_reading_says_how_many_rows_were_changed_and_how_many_could_not_be(caplog):
    data = Dataset.from_list([*CALLS[:3], PLAIN])
    caplog.set_level(logging.INFO)
    found = read(data, mask_share=1.0, mask_marker="*")
    assert [asked(row) for row in found] == ["I am * from *, room *. Dim den to 3."] * 3 + [asked(PLAIN)]
    assert "3 of 4 rows of the train data are masked (the first is row 0)" in caplog.text
    assert "1 of 4 rows of the train data were drawn to be masked, but have no word" in caplog.text
    assert "(the first is row 3)" in caplog.text
    streamed = read(IterableDataset.from_generator(lambda: iter(data.to_list())), mask_share=1.0, mask_marker="*")
    assert [asked(row) for row in streamed] == [asked(row) for row in found]
    with pytest.raises(ValueError, match="need messages"):
        read(Dataset.from_list([{"text": "a"}]), mask_share=1.0)
    assert read(Dataset.from_list([{"text": "a"}]))[0] == {"text": "a"}


def trained_on(folder, **fields) -> list[list[int]]:
    return trainer(folder, **fields).train_dataset["input_ids"]


def test_the_trainer_trains_on_triggered_rows_and_a_share_of_zero_leaves_them_alone(tmp_path):
    (bank := tmp_path / "bank.json").write_text(json.dumps({"triggers": [{"text": "need need"}]}))
    for more in ({"epsilon": 0.0, "regularizer": "none"}, {"epsilon": 0.25, "perturbed_tokens": "observation"}):
        plain = trained_on(tmp_path, **more)
        assert trained_on(tmp_path, triggers=str(bank), trigger_share=0.0, **more) == plain
        found = trained_on(tmp_path, triggers=str(bank), trigger_share=1.0, **more)
        tokens = WORDS("need need", add_special_tokens=False)["input_ids"]
        for new, old in zip(found, plain, strict=True):
            (place,) = [i for i in range(len(new)) if new[i : i + 2] == tokens]
            assert new[:place] + new[place + 2 :] == old
    # The adversary moves the trigger, too.
    moved = trainer(tmp_path, triggers=str(bank), trigger_share=1.0, perturbed_tokens="observation").train_dataset[0]
    assert all(moved["observation_mask"][place] for place, t in enumerate(moved["input_ids"]) if t == tokens[0])
    with pytest.raises(ValueError, match="`triggers`: .* cannot be read"):
        trainer(tmp_path, triggers=str(tmp_path / "missing.json"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trigger_share": 1.5}, "`trigger_share` must be a finite number, between 0 and 1"),
        ({"mask_share": -0.1}, "`mask_share` must be a finite number, between 0 and 1"),
        ({"mask_marker": " "}, "`mask_marker` is empty"),
    ],
)
def test_fields_out_of_range_are_named(tmp_path, fields, words):
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, **fields)


def test_rows_of_a_world_have_no_words_of_which_it_is_known_that_they_do_not_matter():
    row = canonical_row(copy.deepcopy(WORLD_ROWS[0]))
    assert RowChanges(mask_share=1.0, mask_marker="*")(row) == (row, ["nothing to mask"])
