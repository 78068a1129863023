"""`aajr evaluate` and `aajr compare` after an interruption: the same command goes on, another one begins anew."""

from __future__ import annotations

import json

import pytest

from aajr_hf.cli.main import main
from aajr_hf.evaluation.robustness import evaluate as robustness
from tests.support.commands import SMALL
from tests.support.forked import run_together


@pytest.fixture
def interrupt(monkeypatch):
    """Run a command and interrupt it at the second batch; return the folder of what is kept."""
    attack = robustness._attack_batch

    def run(command, report):
        done = []

        def interrupted_at_the_second(*arguments):
            if done:
                raise KeyboardInterrupt
            done.append(1)
            return attack(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(robustness, "_attack_batch", interrupted_at_the_second)
            assert main(command) == 130
        assert [file.name for file in report.iterdir()] == ["unfinished"]
        (kept,) = (report / "unfinished").iterdir()
        return kept

    return run


@pytest.mark.slow
@pytest.mark.parametrize("what", ["evaluate", "compare"])
def test_the_same_command_goes_on(what, agent, tmp_path, interrupt, capsys):
    report = tmp_path / "report"
    command = [what, f"one={agent}", f"two={agent}", *SMALL, "--attacks", "nll", "--output", str(report)]
    kept = interrupt(command, report)
    message = f"finished batches are in {kept}: the same command goes on after them."
    assert f"interrupted: {message}" in capsys.readouterr().err
    assert main(command) == 0
    assert f"Going on with the interrupted evaluation in {kept}." in capsys.readouterr().err
    assert (report / "results.json").is_file() and not (report / "unfinished").exists()
    assert main(command) == 0
    assert "Going on" not in capsys.readouterr().err


@pytest.mark.slow
def test_another_command_begins_anew_and_removes_nothing(agent, tmp_path, interrupt, capsys):
    report = tmp_path / "report"
    command = ["evaluate", str(agent), *SMALL, "--attacks", "nll", "--output", str(report)]
    kept = interrupt(command, report)
    files = sorted(kept.rglob("*"))
    for change in (["--seed", "1"], ["--attack_steps", "1"], ["--epsilon", "0.3"]):
        assert main([*command, *change]) == 0
        assert "Going on" not in capsys.readouterr().err and sorted(kept.rglob("*")) == files
    assert main(command) == 0
    assert "Going on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_go_on_after_one(agent, tmp_path, monkeypatch, interrupt):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["evaluate", str(agent), *SMALL, "--batch_size", "1", "--attacks", "nll", "--output"]
    kept = interrupt([*command, str(tmp_path / "two")], tmp_path / "two")
    assert (kept / "0.pt").is_file()
    run_together(tmp_path / "ranks", "aajr_hf", *command, tmp_path / "two")
    assert main([*command, str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    # Fixtures shorten the rest, but not in other processes.
    for number in ("outcomes", "attacks", "worst_case_cost", "nominal_cost", "gradients"):
        assert one["runs"]["base"][number] == two["runs"]["base"][number]
    assert not (tmp_path / "two" / "unfinished").exists()
