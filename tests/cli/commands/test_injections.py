"""`aajr injections`: the pairs that it writes, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from aajr_hf.cli.commands.injections import _own_answers
from aajr_hf.cli.main import main
from aajr_hf.evaluation.tool_calls.judge import Answer
from aajr_hf.evaluation.tool_calls.rows import read_rows, reference_calls
from tests.support.commands import fails
from tests.support.small_agents import model
from tests.support.tool_callers import HERMES, ROWS, TOOLS, calling, tokenizer_with, tool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("agents") / "caller", tokenizer_with(HERMES)
    for part in (tokenizer, model(tokenizer)):
        part.save_pretrained(folder)
    return folder


def rows(number: int = 100) -> list[dict]:
    asked = [calling(f"Dim room{i} to {i}", TOOLS, [("dim", {"room": f"room{i}", "level": i})]) for i in range(number)]
    return [*asked, calling("Stop", [tool("stop")], [("stop", {})])]


def written(folder, tmp_path, *more) -> list[dict]:
    data, output = tmp_path / "calls.jsonl", tmp_path / "new" / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    asked = ["injections", str(data), "--model", str(folder), "--output", str(output), "--chosen", "reference", *more]
    assert main(asked) == 0
    assert [file.name for file in output.parent.iterdir()] == ["pairs.jsonl"]
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.slow
def test_each_pair_has_the_injected_call_as_the_rejected_answer(folder, tmp_path, capsys):
    pairs = written(folder, tmp_path)
    assert len(pairs) == 100
    for i, pair in enumerate(pairs):
        (chosen,), (rejected,) = pair["chosen"], pair["rejected"]
        assert chosen["tool_calls"][0]["function"] == {"name": "dim", "arguments": {"room": f"room{i}", "level": i}}
        call = rejected["tool_calls"][0]["function"]
        said = pair["prompt"][0]["content"]
        assert call["name"] == "heat" and json.dumps(call["arguments"]) in said and f"room{i}" in said
        assert ("<|im_start|>assistant" in said) == (pair["injection"] == "completion")
        assert pair["tools"] == TOOLS
    counts = Counter(pair["injection"] for pair in pairs)
    assert 3 <= counts["completion"] <= 20 and counts["plain"] == 100 - counts["completion"]
    told = capsys.readouterr().out
    assert f"{counts['plain']} plain injections, {counts['completion']} completion injections" in told
    assert "0 of the agent, 100 references; 1 rows left out because no tool fits another call (first: row 100)" in told
    assert written(folder, tmp_path) == pairs != written(folder, tmp_path, "--seed", "1")


def test_the_agents_own_answers_are_chosen_where_they_are_right():
    class Caller:
        tokenizer = tokenizer_with(HERMES)

        def answers(self, rows):
            said = {"Dim den to 3": reference_calls(READ[0]["completion"]), "Heat hall to 20": []}
            return [
                Answer(said.get(row["prompt"][0]["content"], reference_calls(READ[0]["completion"]))) for row in rows
            ]

    READ = read_rows(ROWS)
    own = _own_answers(Caller(), READ, batch_size=3)
    assert own[1:] == [None] * 3 and reference_calls(own[0]) == reference_calls(READ[0]["completion"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "pairs.csv"], "`--output` must be a file that ends in .jsonl; got pairs.csv"),
        (["--batch_size", "0"], "`--batch_size` must be at least 1; got 0"),
        (["--injections", "no.yaml"], "no.yaml cannot be read"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_nothing_is_written(folder, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    asked = ["injections", "calls.jsonl", "--model", str(folder), "--output", "pairs.jsonl", *more]
    assert message in fails(capsys, *asked)
    assert [file.name for file in tmp_path.iterdir()] == ["calls.jsonl"]


def test_pairs_and_trainers_must_fit(folder, tmp_path, capsys):
    pairs, calls = tmp_path / "pairs.jsonl", tmp_path / "calls.jsonl"
    call = {"role": "assistant", "content": "x"}
    pairs.write_text(json.dumps({"prompt": [{"role": "user", "content": "a"}], "chosen": [call], "rejected": [call]}))
    calls.write_text(json.dumps(ROWS[0]))
    shared = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    for flags, message in (
        (["--dataset_name", str(pairs)], "The data are pairs (chosen and rejected): set `trainer` to dpo."),
        (["--trainer", "dpo", "--dataset_name", str(calls)], "`trainer` dpo needs the columns chosen and rejected"),
        (["--trainer=grpo", "--dataset_name", str(calls)], "`trainer` grpo needs an `environment`"),
        (["--trainer", "ppo", "--dataset_name", str(calls)], "`trainer` must be one of sft, dpo, grpo; got 'ppo'"),
    ):
        assert message in fails(capsys, "train", *shared, *flags)
    assert not (tmp_path / "run").exists()
    assert "`trainer` must be sft here" in fails(capsys, "inspect", *shared, "--trainer", "dpo")
