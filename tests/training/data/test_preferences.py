"""Columns of preferences and prompts: what TRL trains on passes, and the rest is refused by the column."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from aajr_hf import AAJRGRPOConfig, AAJRGRPOTrainer
from aajr_hf.training.data.preferences import check_pairs, check_prompts
from tests.support.completions import dpo
from tests.support.tiny import WORDS, tiny_model, trainer_arguments

TEXT = {"prompt": "Rain?", "chosen": "Yes.", "rejected": "No."}
USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "Rain?"), ("assistant", "Yes."), ("assistant", "No."))
)
MESSAGES = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}


@pytest.mark.parametrize(
    "row",
    [
        TEXT,
        MESSAGES,
        {"chosen": "Rain? Yes.", "rejected": "Rain? No."},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
    ],
    ids=["texts", "messages", "texts-with-prompt", "messages-with-prompt"],
)
def test_pairs_of_trl_pass(row):
    assert check_pairs(Dataset.from_list([row] * 3)) is None
    assert check_pairs(Dataset.from_list([row] * 3).to_iterable_dataset()) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "`chosen` and `rejected`.*only prompt, completion.*AAJRTrainer"),
        ({"messages": [USER, YES]}, "no chosen and no rejected, only messages"),
        ({"prompt": "a", "chosen": "b"}, "no rejected, only"),
        (TEXT | {"chosen": [USER, YES], "rejected": [USER, NO]}, "`prompt` is a text.*remove the column `prompt`"),
        (MESSAGES | {"chosen": "Yes.", "rejected": "No."}, "`prompt` is messages, `chosen` is a text"),
        (TEXT | {"rejected": [NO]}, "`rejected` is messages"),
        (MESSAGES | {"chosen": [USER, YES], "rejected": [USER, NO]}, "`chosen` begins with .* role user"),
        (TEXT | {"chosen": 1, "rejected": 2}, "`chosen` is a int"),
        (TEXT | {"chosen": ["Yes."], "rejected": ["No."]}, "`chosen` is a list, but not of messages"),
    ],
)
def test_other_rows_are_refused_by_the_column(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        check_pairs(Dataset.from_list([row]))


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["", None, "text", [], [USER]]), min_size=1, max_size=8), st.sampled_from(sorted(TEXT))
)
def test_empty_rows_are_counted(values, name):
    talks = any(isinstance(value, list) for value in values)
    values = [value for value in values if value is None or isinstance(value, list) == talks]
    empty = [row for row, value in enumerate(values) if value is None or value == []]
    whole = {key: [[YES]] * len(values) if talks else ["text"] * len(values) for key in TEXT}
    data = Dataset.from_dict(whole | {name: values})
    if not empty:
        return
    rows = f"is empty in {len(empty)} row{'s' * (len(empty) > 1)} .the first is row {empty[0]}."
    with pytest.raises(ValueError, match=f"`{name}` {rows}"):
        check_pairs(data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, "the column `prompt`.*only messages"),
        ({"prompt": None}, "`prompt` is empty in 2 rows"),
        ({"prompt": 3}, "`prompt` must be a text or a list of messages"),
        ({"prompt": ["Rain?"]}, "`prompt` must be a text or a list of messages"),
    ],
)
def test_prompts_that_are_none(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        check_prompts(Dataset.from_list([row] * 2))


def test_the_trainers_ask(tmp_path):
    with pytest.raises(ValueError, match="`chosen` and `rejected`"):
        dpo(tmp_path, tiny_model(), data=Dataset.from_list([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(ValueError, match="the column `prompt`"):
        AAJRGRPOTrainer(
            tiny_model(),
            len,
            AAJRGRPOConfig(**trainer_arguments(tmp_path, num_generations=4)),
            train_dataset=Dataset.from_list([{"messages": [USER]}]),
            processing_class=WORDS,
        )


def test_dropped_pairs_are_counted_and_none_left_is_an_error(tmp_path, caplog):
    longer = TEXT | {"prompt": "take 1 " * 30}
    dpo(
        tmp_path,
        tiny_model(),
        data=Dataset.from_list([TEXT, longer, TEXT]),
        max_length=20,
        epsilon=0.0,
        regularizer="none",
    )
    assert "1 of 3 examples are dropped (the first is example 1 of the train data), because" in caplog.text
    named = (
        r"3 of 3 examples are dropped \(the first is example 0 .*`max_length` = 20.*none is left: raise `max_length`"
    )
    with pytest.raises(ValueError, match=named):
        dpo(tmp_path, tiny_model(), data=Dataset.from_list([longer] * 3), max_length=20)
