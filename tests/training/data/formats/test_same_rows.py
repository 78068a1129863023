"""One conversation in every format that can hold it is one row."""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.formats.bfcl import bfcl_rows
from aajr_hf.training.data.formats.table import in_trl_format, trl_row
from aajr_hf.training.data.hub_rows import check_rows
from aajr_hf.training.data.reading.json_files import json_rows
from aajr_hf.training.data.schema import check_row
from aajr_hf.training.data.sources import load_rows
from tests.support.shared_data import bfcl
from tests.support.talks import WRITERS, Talk, canonical, messages, talks
from tests.support.templates import shipped
from tests.support.tiny import tiny_model, trainer_arguments
from tests.training.data.test_chat_spans import with_template


def same(left, right) -> bool:
    """Equal as JSON, where 1 is neither 1.0 nor true."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def meant(talk: Talk) -> dict:
    return {"messages": messages(talk), "tools": talk.tools}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=50)
@given(talk=talks())
def test_a_conversation_is_the_same_in_every_format(name, talk):
    write, dataset_format = WRITERS[name]
    row = write(talk)
    if row is None:
        return
    before = json.dumps(row)
    for given_format in ("auto", dataset_format):
        made, left = trl_row(row, given_format)
        assert same(canonical(canonical_row(made)), meant(talk)) and left == []
    assert json.dumps(row) == before  # the row itself is not changed


@settings(max_examples=50)
@given(talk=talks())
def test_what_is_read_again_stays_as_it_is(talk):
    for write, _ in WRITERS.values():
        if (row := write(talk)) is not None:
            made = canonical_row(trl_row(row, "auto")[0])
            assert trl_row(made, "auto") == (made, []) and canonical_row(made) == made


@pytest.mark.slow
def test_every_format_can_hold_some_conversation():
    held: Counter[str] = Counter()

    @given(talk=talks())
    def count(talk):
        held.update(name for name, (write, _) in WRITERS.items() if write(talk) is not None)

    count()
    assert min(held[name] for name in WRITERS) > 3


PLAIN = [
    Talk(
        "Be brief.",
        [("user", f"question {n}"), ("calls", [("f", {"a": n, "b": [0.95]})])],
        [{"name": "f", "parameters": {"type": "object"}}],
    )
    for n in range(3)
]


@pytest.mark.parametrize("name", ["messages", "prompt and completion", "JSON texts", "sharegpt", "xlam"])
def test_tables_and_files_hold_the_same_rows(tmp_path, name):
    rows = [WRITERS[name][0](talk) for talk in PLAIN]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [canonical_row(row) for _, row in in_trl_format(json_rows(file), "auto")]
    kept, count = check_rows(Dataset.from_list(rows), "the data")
    assert (count.valid, count.invalid, count.unread) == (3, 0, {})
    for talk, one, other in zip(PLAIN, read, kept, strict=True):
        assert same(canonical(one), meant(talk)) and same(canonical(canonical_row(other)), meant(talk))


def as_talk(row: dict) -> Talk:
    """A row of the leaderboard as a conversation."""
    system = row["prompt"][0]["content"] if row["prompt"][0]["role"] == "system" else None
    turns = [(message["role"], message["content"]) for message in row["prompt"][system is not None :]]
    (answer,) = row["completion"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in answer["tool_calls"]]
    return Talk(system, [*turns, ("calls", calls)], [tool["function"] for tool in row["tools"]])


@pytest.mark.parametrize("part", ["simple_python", "multiple", "parallel", "live_simple"])
def test_real_calls_are_the_same_in_every_format(tmp_path, part):
    written: Counter[str] = Counter()
    for _, row in bfcl_rows(bfcl() / f"BFCL_v4_{part}.json"):
        talk = as_talk(row)
        for name, (write, _) in WRITERS.items():
            if (other := write(talk)) is not None:
                made, left = trl_row(json.loads(json.dumps(other)), "auto")
                made = canonical_row(made)
                assert same(canonical(made), canonical(row)) and left == [], name
                assert check_row(made)
                written[name] += 1
    wanted = {"messages", "prompt and completion", "JSON texts", "openai", "sharegpt", "xlam"}
    assert wanted <= written.keys() and min(written[name] for name in wanted) > 190


MADE_OF_MESSAGES = {"messages", "JSON texts", "openai", "JSON texts of OpenAI", "old openai", "sharegpt"}


@pytest.mark.slow
def test_real_calls_are_the_same_tokens_and_marks_in_every_format(tmp_path):
    parts = ("simple_python", "multiple", "parallel", "live_simple")
    rows = [row for part in parts for _, row in itertools.islice(bfcl_rows(bfcl() / f"BFCL_v4_{part}.json"), 3)]
    tokenizer, seen, labels = with_template(shipped("qwen2_5")), Counter(), {}
    for name, (write, _) in WRITERS.items():
        numbers = [number for number, row in enumerate(rows) if write(as_talk(row)) is not None]
        if not numbers:
            continue
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(write(as_talk(rows[number]))) + "\n" for number in numbers))
        of_messages = {"max_length": None, "assistant_only_loss": name in MADE_OF_MESSAGES}
        run = AAJRTrainer(
            tiny_model(vocab_size=len(tokenizer)),
            AAJRConfig(**trainer_arguments(tmp_path, perturbed_tokens="observation", **of_messages)),
            train_dataset=load_rows(str(file)),
            processing_class=copy.deepcopy(tokenizer),
        )
        for number, example in zip(numbers, run.train_dataset, strict=True):
            prompt, completion = rows[number]["prompt"], rows[number]["completion"]
            texts = [
                tokenizer.apply_chat_template(turns, tools=rows[number]["tools"], tokenize=False, **more)
                for turns, more in ((prompt, {"add_generation_prompt": True}), (prompt + completion, {}))
            ]
            before, whole = (tokenizer(text)["input_ids"] for text in texts)
            assert example["input_ids"] == whole, name
            # The marks of a template may hold a token of markup more, or one less, than a completion.
            kind = name in MADE_OF_MESSAGES
            assert example["labels"] == labels.setdefault((number, kind), example["labels"]), name
            said = tokenizer.decode([label for label in example["labels"] if label != -100])
            assert texts[1][len(texts[0]) :].removesuffix("<|im_end|>\n") in said, name
            assert kind or example["labels"] == [-100] * len(before) + whole[len(before) :], name
            observed = [token for token, bit in zip(whole, example["observation_mask"], strict=True) if bit]
            assert tokenizer.decode(observed) == "".join(m["content"] for m in prompt if m["role"] == "user"), name
            seen[name] += 1
    assert {"prompt and completion", "xlam", *MADE_OF_MESSAGES} == seen.keys() and min(seen.values()) > 3
