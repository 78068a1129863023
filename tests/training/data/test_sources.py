"""From what a recipe names to rows that can be trained on; what is left out is said, and stands in the model card."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf import load_rows
from aajr_hf.cli.arguments.tool_data import rows_asked_for
from aajr_hf.cli.main import main
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.data.sources import DataArguments, DataError, load_data
from tests.support import ROOT
from tests.support.commands import fails
from tests.support.rows import ANSWER, QUESTION, lines

from ...support.rows import TEXTS, read, write

CONVERSATIONS = [
    {"conversations": [{"from": "user", "value": f"question {n}"}, {"from": "assistant", "value": "yes"}]}
    for n in range(6)
]
MESSAGES = [
    {"messages": [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]}
    for row in CONVERSATIONS
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_files_and_folders_of_every_kind_are_read(tmp_path, suffix):
    write(tmp_path / f"train{suffix}", TEXTS)
    write(tmp_path / f"test{suffix}", TEXTS[:2])
    assert list(read(tmp_path / f"train{suffix}")) == TEXTS
    assert list(read(tmp_path)) == TEXTS and list(read(tmp_path, "test")) == TEXTS[:2]
    with pytest.raises(DataError, match="`dataset_train_split`: the dataset has no split 'dev', only train, test"):
        read(tmp_path, "dev")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("dataset_format", ["auto", "trl", "toolbench"])
def test_conversations_become_messages(tmp_path, suffix, dataset_format):
    write(tmp_path / f"a{suffix}", CONVERSATIONS)
    assert list(read(tmp_path / f"a{suffix}", dataset_format=dataset_format)) == MESSAGES


def test_a_text_can_stand_in_another_field(tmp_path):
    for suffix in (".jsonl", ".parquet"):
        write(tmp_path / f"a{suffix}", [{"story": "a"}])
        assert list(read(tmp_path / f"a{suffix}", text_field="story")) == [{"story": "a"}]
        with pytest.raises(DataError, match="story"):
            read(tmp_path / f"a{suffix}")


@pytest.fixture
def bfcl_folder(tmp_path):
    """Twelve questions, the second of which is invalid and the third answered wrongly."""
    folder = tmp_path / "bfcl"
    folder.mkdir()
    questions = [QUESTION | {"id": str(n)} for n in range(12)]
    answers = [{"id": str(n), "ground_truth": [ANSWER]} for n in range(12)]
    questions[1] = "{"
    answers[2]["ground_truth"] = [{"place.lose": {"name": ["a"]}}]
    (folder / "BFCL_a.json").write_text(lines(*questions))
    (folder / "BFCL_a.answers.json").write_text(lines(*answers))
    return folder


def test_invalid_rows_are_refused_or_counted(bfcl_folder, caplog):
    with pytest.raises(DataError) as error:
        read(bfcl_folder, dataset_format="bfcl")
    message = str(error.value)
    assert message.startswith("`dataset_name`: 3 of 13 rows are invalid: BFCL_a.json line 2: is not JSON")
    assert "BFCL_a.json line 3: has an answer that calls 'place.lose', which is not offered: place.find" in message
    assert "BFCL_a.answers.json line 2: answers '1', but BFCL_a.json has no such question" in message
    assert message.endswith("or set `skip_invalid_rows` to true to leave them out.") and "\n" not in message
    data = load_data(
        DataArguments(dataset_name=str(bfcl_folder), dataset_format="bfcl", skip_invalid_rows=True),
    )
    assert len(data.read("train", "dataset_train_split")) == 10
    assert (
        data.skipped == {"train": 3}
        and "Invalid rows are skipped. 3 of 13 rows are invalid: BFCL_a.json line 2" in caplog.text
    )


def test_files_that_are_left_out_of_a_folder_are_named(tmp_path, caplog):
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        write(tmp_path / name, TEXTS)
    assert len(read(tmp_path)) == 12
    assert "is read as json, without c.csv" in caplog.text


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_from_every_file_are_evaluated_alike(tmp_path, suffix):
    def row(name, value):
        calls = [{"type": "function", "function": {"name": name, "arguments": {name: value}}}]
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
        parameters = {"properties": {name: {"type": "string"}}}
        return {
            "messages": turns,
            "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
        }

    rows = [row("f", "a"), row("g", 5)]
    write(tmp_path / f"a{suffix}", rows)
    options = SimpleNamespace(dataset_format="auto", dataset_config=None, dataset_split=None, skip_invalid_rows=False)
    read = read_rows(rows_asked_for(options, str(tmp_path / f"a{suffix}"), "test"))
    assert [row["accepted"] for row in read] == [[{"f": {"f": ["a"]}}], [{"g": {"g": [5]}}]]
    assert [row["tools"] for row in read] == [row["tools"] for row in rows]
    assert all(row["prompt"] == [{"role": "user", "content": "?"}] for row in read)


@pytest.fixture(scope="module")
def tool_agent(tmp_path_factory):
    """An agent for tool calls, made by the command, of 12 questions."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "a.json").write_text(lines(*(QUESTION | {"id": str(n)} for n in range(12))))
    (folder / "a.answers.json").write_text(lines(*({"id": str(n), "ground_truth": [ANSWER]} for n in range(12))))
    data = ["--dataset_name", str(folder), "--dataset_format", "bfcl"]
    assert main(["init-agent", str(folder / "agent"), *data, "--steps", "2"]) == 0
    return folder / "agent"


def test_an_agent_of_a_dataset_is_an_ordinary_model_that_renders_tools(tool_agent):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tool_agent), AutoTokenizer.from_pretrained(tool_agent)
    assert 1e6 <= model.num_parameters() <= 3e6 and model.config.max_position_embeddings >= 512
    assert not hasattr(model.config, "aajr_environment")
    call = {"type": "function", "function": {"name": "place.find", "arguments": {"size": 0.95, "name": "Kyōto"}}}
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    answer = [{"role": "assistant", "content": None, "tool_calls": [call, call]}]
    more = [{"role": "tool", "content": "{}"}, {"role": "assistant", "content": "There."}]
    tools = [{"type": "function", "function": QUESTION["function"][0]}]
    text = tokenizer.apply_chat_template(prompt + answer + more, tools=tools, tokenize=False)
    said = '<tool_call>{"name": "place.find", "arguments": {"size": 0.95, "name": "Kyōto"}}</tool_call>'
    assert text == (
        f"<|tools|>{json.dumps(tools[0])}\n<|end|><|system|>Be brief.<|end|><|user|>Where?<|end|>"
        f"<|assistant|>{said}{said}<|end|><|tool|>{{}}<|end|><|assistant|>There.<|end|>"
    )
    encoded = tokenizer.apply_chat_template(
        prompt + answer + more, tools=tools, return_assistant_tokens_mask=True, return_dict=True
    )
    kept = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(encoded["input_ids"]) == text
    assert tokenizer.decode(kept) == f"{said}{said}<|end|>There.<|end|>"
    assert tokenizer.decode(kept, skip_special_tokens=True) == f"{said}{said}There."
    parts = [
        m | {"content": [{"type": "text", "text": part} for part in m["content"] or ""]}
        for m in prompt + answer + more
    ]
    assert tokenizer.apply_chat_template(parts, tools=tools, tokenize=False) == text
    # What the model is asked to go on from is what it is trained on.
    asked = tokenizer.apply_chat_template(prompt, tools=tools, add_generation_prompt=True)["input_ids"]
    assert encoded["input_ids"][: len(asked)] == asked


@pytest.mark.parametrize(
    "rows", [TEXTS, MESSAGES, [{"text": f"the story {n}"} for n in range(9)]], ids=["0", "1", "2"]
)
def test_an_agent_is_made_of_every_format(tmp_path, rows):
    write(tmp_path / "a.jsonl", rows)
    assert (
        main(["init-agent", str(tmp_path / "b/agent"), "--dataset_name", str(tmp_path / "a.jsonl"), "--steps", "1"])
        == 0
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "b" / "agent")("story")["input_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_name", "nowhere.json"], "`dataset_name`: there is no file or folder nowhere.json"),
        (
            ["--dataset_name", "a.jsonl", "--environment", "commons"],
            "`--environment` and `--dataset_name` cannot be used together",
        ),
        (
            ["--dataset_name", "a.jsonl", "--examples", "5"],
            "`--examples` and `--dataset_name` cannot be used together",
        ),
        (["--dataset_name", "a.jsonl", "--steps", "0"], "`--steps` must be at least 1"),
        (["--dataset_name", "a.jsonl"], "1 of 1 rows are invalid"),
        (["--dataset_name", "tokens.jsonl"], "the rows are tokens (`input_ids`) of another tokenizer"),
        (["--dataset_name", "a.jsonl", "--dataset_format", "xml"], "--dataset_format"),
        (["--dataset_format", "bfcl"], "`--dataset_format` needs `--dataset_name`"),
        (["--dataset_name", "parts.jsonl"], "only parts of the type 'text' are read"),
    ],
    ids=lambda value: " ".join(value)[-20:] if isinstance(value, list) else "",
)
def test_agents_that_cannot_be_made(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [{"question": "a"}])
    write(tmp_path / "tokens.jsonl", [{"input_ids": [1, 2]}])
    image = {"role": "user", "content": [{"type": "image"}]}
    write(tmp_path / "parts.jsonl", [{"messages": [image, {"role": "assistant", "content": "a"}]}])
    assert message in fails(capsys, "init-agent", "deep/down/agent", *arguments)
    assert not (tmp_path / "deep").exists()


FAST = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "true", "--bf16", "false"]
FORMATS = {
    "texts": (TEXTS, []),
    "text": ([{"text": f"the story {n}"} for n in range(4)], ["--perturbed_tokens", "all"]),
    "messages": (MESSAGES, ["--assistant_only_loss", "true"]),
    "alpaca": (
        [{"instruction": "add", "input": f"1 {n}", "output": "yes", "history": [["a", "b"]]} for n in range(4)],
        [],
    ),
    "toolbench": (
        [{"conversations": [*row["conversations"], {"from": "function", "value": "5"}]} for row in CONVERSATIONS],
        ["--assistant_only_loss", "true", "--dataset_format", "toolbench"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_trained_on(tool_agent, tmp_path, name):
    rows, options = FORMATS[name]
    write(tmp_path / "a.jsonl", rows)
    where = ["--model_name_or_path", str(tool_agent), "--output_dir", str(tmp_path / "run")]
    assert main(["train", *where, "--dataset_name", str(tmp_path / "a.jsonl"), *options, *FAST]) == 0


@pytest.mark.slow
def test_the_recipe_trains_on_tool_calls_and_the_card_says_what_was_left_out(
    tool_agent, bfcl_folder, tmp_path, capsys
):
    run = tmp_path / "run"
    recipe = ["--config", str(ROOT / "recipes" / "tiny" / "bfcl" / "aajr.yaml"), "--adapter", "lora"]
    where = ["--model_name_or_path", str(tool_agent), "--output_dir", str(run), "--dataset_name", str(bfcl_folder)]
    saving = ["--save_strategy", "steps", "--save_steps", "1"]
    assert "3 of 13 rows are invalid" in fails(capsys, "train", *recipe, *where, *FAST)
    assert not run.exists()
    assert main(["train", *recipe, *where, *FAST, *saving, "--skip_invalid_rows", "true"]) == 0
    assert yaml.safe_load((run / "recipe.yaml").read_text())["dataset_format"] == "bfcl"
    data = f"| data | {bfcl_folder.name}, without 3 invalid rows |"
    assert data in (run / "README.md").read_text()
    assert json.loads((run / "checkpoint-1" / "data.json").read_text()) == {"skipped_rows": 3}
    merged = tmp_path / "merged"
    assert main(["merge", str(run), str(merged)]) == 0
    assert (merged / "data.json").is_file()
    # Another run in the same place, without rows that are left out.
    write(tmp_path / "a.jsonl", TEXTS)
    where[-1] = str(tmp_path / "a.jsonl")
    again = ["--dataset_format", "trl", "--overwrite", "true", *saving]
    assert main(["train", *recipe, *where, *FAST, *again]) == 0
    assert not (run / "data.json").exists() and "invalid" not in (run / "README.md").read_text()


def test_rows_are_read_from_python_as_by_the_command_line(tmp_path):
    write(tmp_path / "rows.jsonl", [*TEXTS, {"prompt": "no completion"}])
    with pytest.raises(DataError, match="Correct them, or set `skip_invalid_rows` to true"):
        load_rows(str(tmp_path / "rows.jsonl"))
    rows = load_rows(str(tmp_path / "rows.jsonl"), skip_invalid_rows=True)
    assert rows.to_list() == TEXTS
    with pytest.raises(DataError, match="`split`: the dataset has no split 'dev'"):
        load_rows(str(tmp_path), "dev")
