"""`aajr evaluate` and `aajr simulate` on several processes: the numbers of one process, and what cannot be shared out."""

from __future__ import annotations

import json

import pytest

from aajr_hf.cli.main import main
from aajr_hf.evaluation.processes import gathered, my_share
from tests.support import ROOT
from tests.support.forked import run_together
from tests.support.tool_callers import ROWS, caller

STORED = str(ROOT / "docs" / "results" / "agents" / "congestion")
TWO = ["--num_processes", "2", "--main_process_port", "0", "--accelerate_config", "ddp_cpu"]
# Three batches, of which the first process gets two.
FEW = ["--examples", "6", "--batch_size", "2", "--attack_steps", "2", "--multiples", "0.5", "--token_trials", "3"]
# Of each kind one: along gradients, learnt on the other half, found on another agent, in words.
ATTACKS = ["--attacks", "nll", "universal", "from_others", "token"]


def one_and_two(command: list[str], folder) -> dict[str, dict]:
    """The results of an evaluation by one process, and by two that have joined."""
    assert main([*command, "--output", str(folder / "one")]) == 0
    run_together(folder / "ranks", "aajr_hf", *command, "--output", folder / "two")
    return {name: json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_evaluate_as_one(agent, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["evaluate", f"stored={STORED}", f"random={agent}", "--env", "congestion", *ATTACKS, *FEW]
    results = one_and_two(command, tmp_path)
    assert all((tmp_path / name / "report.html").is_file() for name in results)
    stored = results["one"]["runs"]["stored"]
    assert stored["nominal_success"] > 50 and 0 < stored["worst_case_success"]["0.5"] < 100
    assert {"token_attack", "shared_directions"} <= stored.keys()
    assert results["two"] == results["one"]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_evaluate_tool_calls_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for part in caller():
        part.save_pretrained(tmp_path / "caller")
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    few = ["--batch_size", "3", "--attack_steps", "2", "--multiples", "0.5"]
    few += ["--attacks", "nll", "universal", "injection"]
    command = ["evaluate", f"caller={tmp_path / 'caller'}", "--dataset_name", str(tmp_path / "calls.jsonl"), *few]
    results = one_and_two(command, tmp_path)
    run = results["one"]["runs"]["caller"]
    assert run["worst_case_exact"]["0.5"] > 0 and run["text_attacks"]["injection"]["plain"]["rows"] > 0
    assert results["two"] == results["one"]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_play_the_episodes_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Three groups, with random numbers in the answers and in the attack.
    short = ["--episodes", "5", "--agents", "4", "--steps", "2", "--batch_size", "8", "--transcript"]
    drawn = ["--temperature", "1", "--attack", "random", "--epsilon", "0.2"]
    files = []
    for name, launch in (("one", []), ("two", TWO)):
        output = ["--output", str(tmp_path / name), "--picture", str(tmp_path / name / "episode.png")]
        assert main(["simulate", "--model", STORED, *short, *drawn, *output, *launch]) == 0
        files.append((tmp_path / name / "episodes.jsonl").read_bytes())
        assert (tmp_path / name / "episode.png").is_file()
    assert files[0] == files[1] and files[0].count(b"\n") == 5


def test_one_process_does_all_pieces_in_their_order():
    assert list(my_share(3)) == [0, 1, 2] and gathered({1: "b", 0: "a"}) == ["a", "b"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--num_processes", "0"], "`--num_processes` must be at least 1; got 0."),
        (["--accelerate_config", "fsdp2"], "`accelerate_config`: fsdp2 shards a model that is trained: give ddp to"),
        (["--accelerate_config", "ddq"], "`accelerate_config` must be one of"),
        (["--machine_rank", "x"], "argument --machine_rank"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["evaluate", "simulate"])
def test_a_wrong_launch_is_one_line(name, command, message, refused, agent):
    model = [agent] if name == "evaluate" else ["--model", agent]
    assert message in refused(name, *model, "--env", "congestion", *command)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["evaluate", "{}", "--env", "congestion", "--surrogate"],
            "`--surrogate`: surrogates are trained by one process only",
        ),
        (
            ["evaluate", "{}", "--dataset_name", "x", "--examples", "3"],
            "`--num_processes` 2 is more than the 1 batches of at most 16 examples",
        ),
        (
            ["evaluate", "{}", "--env", "congestion", "--examples", "3"],
            "`--num_processes` 2 is more than the 1 batches of at most 128 examples",
        ),
        (
            ["simulate", "--model", "{}", "--env", "congestion", "--episodes", "9"],
            "`--num_processes` 2 is more than the 1 groups of at most 9 episodes",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_shared_out_is_one_line(command, message, refused, agent, monkeypatch):
    # As in each of the launched processes.
    for module in ("evaluate", "simulate"):
        monkeypatch.setattr(f"aajr_hf.cli.commands.{module}.number_of_processes", lambda: 2)
    words = [word.format(agent) for word in command]
    assert message in refused(*words)
