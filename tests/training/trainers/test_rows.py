"""What the three trainers make of rows as people write them, beside what TRL's trainers make of them."""

from __future__ import annotations

import copy
import json
import logging
import re

import pytest
from datasets import Dataset, IterableDataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from aajr_hf import (
    AAJRConfig,
    AAJRDPOConfig,
    AAJRDPOTrainer,
    AAJRGRPOConfig,
    AAJRGRPOTrainer,
    AAJRTrainer,
)
from tests.support.templates import shipped
from tests.support.tiny import tiny_model, trainer_arguments
from tests.training.data.test_chat_spans import with_template
from tests.training.data.test_rows_as_written import ANSWER, RESULT, TOOL, calling, question

TOKENIZER = with_template(shipped("qwen2_5"))
BOTH = {"sft": (AAJRTrainer, AAJRConfig), "trl": (SFTTrainer, SFTConfig)}
TALK = [question(), ANSWER, question(), ANSWER]


def made(folder, rows, which="sft", streamed=False, **settings):
    trainer, config = BOTH[which]
    skip = {"skip_invalid_rows": settings.pop("skip_invalid_rows")} if "skip_invalid_rows" in settings else {}
    data = IterableDataset.from_generator(lambda: iter(rows)) if streamed else Dataset.from_list(rows)
    settings = {"max_length": None} | settings
    return trainer(
        tiny_model(vocab_size=len(TOKENIZER)),
        config(**trainer_arguments(folder, **settings)),
        train_dataset=data,
        processing_class=copy.deepcopy(TOKENIZER),
        **skip,
    )


def examples(run):
    """The tokens of each example, and the texts that are actions."""
    for example in run.train_dataset:
        labels = [label for label in example["labels"] if label != -100]
        yield example["input_ids"], run.processing_class.decode(labels)


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ([{"messages": TALK}] * 2, {"assistant_only_loss": True}),
        ([{"prompt": TALK[:3], "completion": TALK[3:]}] * 2, {}),
        ([{"prompt": [question()], "completion": [calling({"n": 7})], "tools": json.dumps([TOOL])}], {}),
        ([{"prompt": "7 apples", "completion": " are red"}, {"prompt": "9", "completion": " pears"}], {}),
        ([{"text": "7 apples are red"}, {"text": "9 pears"}], {"max_length": 12, "perturbed_tokens": "all"}),
        ([{"messages": TALK}, {"messages": TALK[:2]}], {"assistant_only_loss": True, "max_length": 210}),
        ([{"messages": TALK}], {"assistant_only_loss": True, "max_length": 210, "truncation_mode": "keep_end"}),
    ],
    ids=["messages", "completions", "calls", "texts", "text", "cut", "cut-at-the-begin"],
)
@pytest.mark.filterwarnings("ignore:The .* truncation mode is deprecated")
def test_rows_that_trl_reads_right_are_the_same_tokens(tmp_path, rows, settings):
    mine = made(tmp_path, rows, **settings).train_dataset
    settings.pop("perturbed_tokens", None)
    theirs = made(tmp_path, rows, "trl", **settings).train_dataset
    assert len(mine) == len(theirs) > 0
    for name in ("input_ids", "labels"):
        assert mine[name][:] == theirs[name][:]


@pytest.mark.parametrize("epsilon", [0.1, 0.0], ids=["active", "plain"])
def test_tool_results_in_a_completion_are_no_actions_unlike_in_trl(tmp_path, epsilon):
    row = {
        "prompt": [question()],
        "completion": [calling({"n": 7}), RESULT | {"content": "sunny"}, ANSWER],
        "tools": [TOOL],
    }
    ((ids, actions),) = examples(made(tmp_path, [row], epsilon=epsilon, regularizer_lambda=epsilon))
    ((same, theirs),) = examples(made(tmp_path, [row], "trl"))
    assert ids == same and "sunny" in theirs
    assert actions.startswith("<tool_call>") and actions.endswith("</tool_call><|im_end|>\n7 apples?<|im_end|>\n")
    assert "sunny" not in actions and "tool_response" not in actions


def test_calls_of_a_table_have_their_own_arguments_unlike_in_trl(tmp_path):
    rows = [{"prompt": [question()], "completion": [calling({name: 1})]} for name in ("a", "b")]
    said = [actions for _, actions in examples(made(tmp_path, rows))]
    assert ['"arguments": {"a": 1}' in said[0], '"arguments": {"b": 1}' in said[1]] == [True, True]
    assert "null" in next(examples(made(tmp_path, rows, "trl")))[1]


def test_a_null_of_a_json_text_is_a_value(tmp_path):
    rows = [
        {"prompt": [question()], "completion": [calling('{"a": null}')]},
        {"prompt": [question()], "completion": [calling('{"b": 1}')]},
    ]
    said = [actions for _, actions in examples(made(tmp_path, rows))]
    assert '{"a": null}' in said[0] and '{"b": 1}' in said[1]


@pytest.mark.parametrize("assistant_only_loss", [True, False])
def test_a_turn_of_the_weight_0_is_not_trained_on(tmp_path, assistant_only_loss):
    rows = [{"messages": [question(), {"role": "assistant", "content": "rubbish", "weight": 0}, question(), ANSWER]}]
    ((_, actions),) = examples(made(tmp_path, rows, assistant_only_loss=assistant_only_loss))
    assert "rubbish" not in actions and actions.endswith("7 apples?<|im_end|>\n")
    assert (actions.count("7 apples?") == 1) == assistant_only_loss


@pytest.mark.parametrize("streamed", [False, True])
def test_invalid_rows_are_counted_or_left_out(tmp_path, streamed, caplog):
    lost = {"messages": [question(), ANSWER | {"reasoning_content": "hm"}]}
    rows = [{"messages": TALK}, lost, {"messages": TALK[:2]}]
    named = r"[Rr]ow 1.*`messages`\[1\].*`reasoning_content` 'hm'.*the chat template.*`skip_invalid_rows`"
    with pytest.raises(ValueError, match=named):
        list(made(tmp_path, rows, streamed=streamed, assistant_only_loss=True).train_dataset)
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        run = made(tmp_path, rows, streamed=streamed, assistant_only_loss=True, skip_invalid_rows=True)
        assert len(list(run.train_dataset)) == 2
    if streamed:
        assert caplog.text.count("Invalid rows are skipped. The first is row 1 of the train data: ") == 1
    else:
        assert run.skipped_rows == 1 and "1 of 3 rows are invalid: row 1" in caplog.text


def test_answers_that_are_cut_are_counted(tmp_path, caplog):
    rows = [{"prompt": [question()], "completion": [{"role": "assistant", "content": "a" * n}]} for n in (5, 50, 90)]
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        run = made(tmp_path, rows, max_length=200)
    lengths = [len(example["labels"]) for example in made(tmp_path, rows).train_dataset]
    lost = sum(max(length - 200, 0) for length in lengths)
    assert (
        lost
        and f"cuts the answers of 2 of 3 examples (first of example 1 of the train data): {lost} tokens" in caplog.text
    )
    assert max(len(example["labels"]) for example in run.train_dataset) == 200


@pytest.mark.slow
def test_cuts_of_a_stream_are_counted_while_it_is_read(tmp_path, caplog):
    answers = [{"role": "assistant", "content": "a" * n} for n in (5, 50, 90)]
    rows = [{"prompt": [question()], "completion": [answer]} for answer in answers]
    rows.insert(2, {"prompt": [question(content="a" * 300)], "completion": [ANSWER]})
    whole = [len(example["labels"]) for example in made(tmp_path, rows).train_dataset]
    run = made(tmp_path, rows, streamed=True, max_length=200, per_device_train_batch_size=3, max_steps=2)
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        run.train()
    lost = [max(whole[row] - 200, 0) for row in (1, 3)]
    assert caplog.text.count(f"cuts {lost[0]} tokens off the answer of example 1 of the train data") == 1
    assert caplog.text.count("nothing of example 2 of the train data is trained on") == 1
    (cut,) = [record.getMessage() for record in caplog.records if "cut the answers" in record.getMessage()]
    found = list(map(int, re.findall(r"\d+", cut)))  # answers, examples, tokens, of one or more whole epochs
    assert found[1] % 4 == 0 and found[::2] == [found[1] // 2, found[1] // 4 * sum(lost)]
    assert f"{found[1] // 4} of {found[1]} examples were dropped" in caplog.text


def test_what_nothing_reads_is_said_once(tmp_path, caplog):
    rows = [{"messages": TALK}, {"messages": [question(mood="glad"), ANSWER]}]
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        made(tmp_path, rows * 2, assistant_only_loss=True)
    assert caplog.text.count("Nothing reads the field `mood` of messages (first in row 1 of the train data)") == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_so_are_keys_of_calls_and_parts(tmp_path, streamed, caplog):
    parts = [{"type": "text", "text": "7 apples?", "cache_control": "ephemeral"}]
    call = calling({"n": 7}, content=None)
    call["tool_calls"][0]["index"] = 0
    plain = [{"type": "text", "text": "7 apples?"}]
    rows = [
        {"messages": [question(content=plain), calling({"n": 7}, content=None)], "tools": [TOOL]},
        {"messages": [question(content=parts), call], "tools": [TOOL]},
    ]
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        list(made(tmp_path, rows, streamed=streamed, assistant_only_loss=True).train_dataset)
    for field in ("`index` of calls", "`cache_control` of parts of `content`"):
        assert caplog.text.count(f"Nothing reads the field {field} (first in row 1 of the train data)") == 1


def preferences(folder, rows, trainer=AAJRDPOTrainer, config=AAJRDPOConfig, **settings):
    return trainer(
        tiny_model(vocab_size=len(TOKENIZER)),
        tiny_model(vocab_size=len(TOKENIZER), seed=1),
        config(**trainer_arguments(folder, **settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(TOKENIZER),
    )


def test_pairs_are_read_in_the_same_form(tmp_path, caplog):
    as_object = {"prompt": [question()], "chosen": [calling({"n": 7})], "rejected": [ANSWER], "tools": [TOOL]}
    as_text = {
        "chosen": [question(), calling('{"n": 7}', content=None)],
        "rejected": [question(), ANSWER],
        "tools": [TOOL],
    }
    as_text["rejected"][1] = ANSWER | {"content": [{"type": "text", "text": ANSWER["content"]}]}
    parts = [{"type": "text", "text": "7 "}, {"type": "text", "text": "apples?"}]
    as_text["rejected"][0] = question(content=parts)
    as_text["chosen"][0] = question(content=parts)
    theirs = preferences(tmp_path, [as_object], DPOTrainer, DPOConfig).train_dataset[0]
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        mine = preferences(tmp_path, [as_text], max_length=theirs_length(theirs) - 5).train_dataset[0]
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert mine[name] == theirs[name]
    assert "cuts the answers of 1 of 1 examples (first of example 0 of the train data): 5 tokens" in caplog.text


def theirs_length(pair):
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ([calling({"n": 7}), RESULT, ANSWER], r"`chosen`\[1\] has the role 'tool'"),
        ([ANSWER | {"weight": 0}], r"`chosen`\[0\] has the `weight` 0"),
        ([ANSWER | {"name": "Ann"}], r"`chosen`\[0\] \(assistant\): the `name` 'Ann'"),
    ],
)
def test_answers_of_pairs_hold_only_what_is_compared(tmp_path, answer, named):
    with pytest.raises(ValueError, match=named):
        preferences(tmp_path, [{"prompt": [question()], "chosen": answer, "rejected": [ANSWER]}])


def test_prompts_of_samples_are_read_in_the_same_form(tmp_path):
    def sampling(prompt):
        return AAJRGRPOTrainer(
            tiny_model(vocab_size=len(TOKENIZER)),
            lambda completions, **_: [0.0] * len(completions),
            AAJRGRPOConfig(**trainer_arguments(tmp_path, num_generations=2, max_completion_length=4)),
            train_dataset=Dataset.from_list([{"prompt": prompt, "solution": 7}] * 2),
            processing_class=copy.deepcopy(TOKENIZER),
        ).train_dataset

    parts = [{"type": "text", "text": "7 "}, {"type": "text", "text": "apples?"}]
    found = sampling([question(content=parts)])[0]
    assert found == {"prompt": [question()], "solution": 7}
    found = sampling([question(), calling('{"n": 7}'), RESULT])[0]
    assert found == {"prompt": [question(), calling({"n": 7}), RESULT], "solution": 7}
    with pytest.raises(ValueError, match=r"row 0 of the train data: `prompt`\[0\] \(user\): the `name` 'Ann'"):
        sampling([question(name="Ann")])
