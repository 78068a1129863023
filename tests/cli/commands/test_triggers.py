"""`aajr triggers`: finds triggers, adds them to a bank that evaluation and training read, and refuses what it cannot use."""

from __future__ import annotations

import functools
import json
import re

import pytest

from aajr_hf.cli.main import main
from aajr_hf.training.data.triggers import read_triggers
from aajr_hf.training.sharing.results import RobustnessResults, ToolCallResults
from tests.support.commands import FAST, fails
from tests.support.tool_callers import ROWS, caller
from tests.support.typed import mismatches

from .test_evaluate import untrained

QUICK = ["--examples", "6", "--candidates", "3", "--beam", "1", "--rounds", "1", "--lengths", "1", "2"]


@functools.cache
def _made(folder):
    return untrained(folder, "congestion")


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return _made(tmp_path_factory.mktemp("triggers") / "agent")


@pytest.fixture(scope="module")
def bank(agent, tmp_path_factory):
    file = tmp_path_factory.mktemp("bank") / "new" / "bank.json"
    assert main(["triggers", f"first={agent}", "--output", str(file), *QUICK, "--fluency", "0"]) == 0
    return file


@pytest.mark.slow
def test_a_bank_keeps_the_triggers_of_earlier_agents_with_what_they_did(agent, bank, capsys):
    earlier = read_triggers(bank)
    assert [(t.agent, t.tokens, t.data, t.fluency, t.judge) for t in earlier] == [
        ("first", 1, "congestion", 0, ""),
        ("first", 2, "congestion", 0, ""),
    ]
    assert [len(t.text.split()) for t in earlier] == [1, 2]
    assert all(t.examples == 6 and min(t.nominal, t.left, t.random) >= 0 for t in earlier)
    second = ["triggers", f"second={agent}", "--output", str(bank), *QUICK, "--fluency", "0.5", "--seed", "1"]
    assert main([*second, "--fluency_model", agent]) == 0
    held = read_triggers(bank)
    assert held[:2] == earlier and [(t.agent, t.judge) for t in held[2:]] == [("second", agent)] * 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 triggers added to" in printed and "now holds 4" in printed
    assert "Found on 6 rows, measured on 6 others" in printed
    assert main([*second[:-4], "--fluency", "1"]) == 0 and read_triggers(bank)[4].judge == "n-gram"


@pytest.mark.slow
def test_all_triggers_of_a_bank_are_tried_in_a_world_and_on_tool_calls(agent, bank, tmp_path, capsys):
    out, quick = tmp_path / "out", ["--attack_steps", "1", "--multiples", "1", "--batch_size", "8"]
    shared = ["--triggers", str(bank), "--output", str(out), *quick]
    assert main(["evaluate", agent, *shared, "--examples", "6", "--attacks", "warm_nll", "trigger"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert mismatches(results, RobustnessResults) == []
    (run,) = results["runs"].values()
    assert results["settings"]["triggers"] == [trigger.text for trigger in read_triggers(bank)]
    assert list(run["text_attacks"]["trigger"]) == ["found", "bank", "random"]
    assert "trigger" not in run["attacks"]
    assert "trigger, bank" in capsys.readouterr().out and "trigger, bank" in (out / "report.html").read_text()

    folder, data = tmp_path / "caller", tmp_path / "calls.jsonl"
    for part in caller():
        part.save_pretrained(folder)
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    few = ["--dataset_name", str(data), "--attacks", "trigger", "warm_nll"]
    assert main(["evaluate", str(folder), *shared, *few]) == 0
    results = json.loads((out / "results.json").read_text())
    assert mismatches(results, ToolCallResults) == []
    tally = results["runs"]["caller"]["text_attacks"]["trigger"]
    assert {kind: each["rows"] for kind, each in tally.items()} == {"found": 4, "bank": 4, "random": 4}
    own = ["triggers", str(folder), "--dataset_name", str(data), "--output", str(tmp_path / "own.json"), *QUICK]
    assert main([*own, "--fluency", "0"]) == 0
    (one, two) = read_triggers(tmp_path / "own.json")
    assert (one.data, one.examples, one.nominal) == ("calls.jsonl", 2, 100)
    assert not re.search(r"\b(den|hall|dim|heat|room)\b", f"{one.text} {two.text}")


@pytest.mark.slow
def test_training_puts_the_triggers_of_a_file_into_its_rows(agent, bank, tmp_path, capsys):
    def train(name, *options):
        out = str(tmp_path / name)
        fields = ["--model_name_or_path", agent, "--output_dir", out, "--environment", "congestion", *FAST]
        how = ["--logging_steps", "1", "--ascent_steps", "1", "--regularizer", "none"]
        assert main(["train", *fields, *how, *options]) == 0
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        return [(log["loss"], log["num_tokens"], log["aajr/delta_norm"] > 0) for log in history if "loss" in log]

    plain, none, every = (
        train("a"),
        train("b", "--triggers", str(bank), "--trigger_share", "0"),
        train("c", "--triggers", str(bank), "--trigger_share", "1"),
    )
    assert plain == none
    assert [log[1] for log in every] > [log[1] for log in plain] and all(log[2] for log in every)
    missing = ["--triggers", str(tmp_path / "missing.json")]
    fields = ["--model_name_or_path", agent, "--output_dir", str(tmp_path / "d"), "--environment", "congestion", *FAST]
    assert "`triggers`: " in fails(capsys, "train", *fields, *missing)
    assert "`trigger_share` must be a finite number, between 0 and 1" in fails(
        capsys, "train", *fields, "--trigger_share", "2"
    )
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "0"], "`--examples` must be at least 1"),
        (["--lengths", "2", "0"], "`--lengths` must be at least 1"),
        (["--fluency", "-1"], "`--fluency` must be finite numbers of at least 0"),
        (["--fluency", "0", "--fluency_model", "x"], "`--fluency_model` has no effect"),
        (["--dataset_split", "x"], "`--dataset_split` is only for tool calls"),
        (["--dataset_name", "x", "--env", "commons"], "`--env` is only for worlds"),
        (["--output", "."], "is a folder"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, refused):
    assert message in refused("triggers", "nowhere", *arguments)


def test_a_file_that_is_no_bank_stays_as_it_is(tmp_path, refused, monkeypatch):
    (tmp_path / "bank.json").write_text("[]")
    assert "`--output`: bank.json must hold a list `triggers`" in refused(
        "triggers", "nowhere", "--output", "bank.json"
    )
    assert "`--triggers`: bank.json must hold" in refused("evaluate", "nowhere", "--triggers", "bank.json")
    assert "`--triggers`: missing.json cannot be read" in refused("evaluate", "nowhere", "--triggers", "missing.json")
    assert "no effect without the attack trigger" in refused(
        "evaluate", "nowhere", "--triggers", "bank.json", "--attacks", "nll"
    )
