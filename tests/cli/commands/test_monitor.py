"""`aajr monitor`: from logs to an alarm, what it compares with, and what it refuses."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from aajr_hf.cli.commands import monitor as command
from aajr_hf.cli.main import main
from aajr_hf.environments import held_out_rows
from aajr_hf.training.sharing.model_card import weights_digest
from aajr_hf.training.sharing.results import MonitorResults
from tests.support.typed import mismatches

ROWS = held_out_rows("congestion", 60, seed=9)
FEW = ["--examples", "20"]


def lines(rows, right=lambda i: True):
    for i, row in enumerate(rows):
        expected = row["completion"][0]["content"]
        said = {"observation": row["prompt"][0]["content"], "answer": expected if right(i) else "?"}
        yield json.dumps(said | {"expected": expected}) + "\n"


def write(path: Path, *args) -> Path:
    path.write_text("".join(lines(*args)))
    return path


@pytest.fixture
def monitored(agent, tmp_path, monkeypatch):
    """`monitored(arguments...)`: the exit status and the results of the command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["monitor", *map(str, arguments), "--agent", str(agent), *FEW])
        found = json.loads(Path("outputs/monitor/monitor.json").read_text())
        assert mismatches(found, MonitorResults) == []
        return status, found

    return run


def test_a_calm_log_is_no_alarm_and_a_drop_is_one(monitored, agent, capsys):
    calm = write(Path("calm.jsonl"), ROWS)
    status, found = monitored(calm, "--expected", 95, "--metrics", "aajr.prom")
    assert status == 0 and not found["alarm"] and found["success"] == 100 and found["answers"] == 60
    assert list(found["tests"]) == ["success", "surprise", "distance"]
    printed = capsys.readouterr().out
    assert printed.startswith("No alarm in 60 answers") and "A drop by 10 points would raise an alarm after" in printed
    assert f'aajr_monitor_success_ratio{{agent="{agent}"}} 1' in Path("aajr.prom").read_text()
    dropped = write(Path("dropped.jsonl"), ROWS, lambda i: i % 2 == 0)
    status, found = monitored(calm, dropped, "--expected", 95)
    assert status == command.ALARM == 3 and found["alarm"] and found["answers"] == 120
    assert 60 < found["tests"]["success"]["alarm_at"] < 110
    assert capsys.readouterr().out.startswith(f"ALARM at answer {found['tests']['success']['alarm_at']}: the share")


def test_other_observations_are_an_alarm_even_where_no_right_answer_is_known(monitored):
    said = [{"observation": f"zebra {i} zebra {i} quux", "answer": "x"} for i in range(60)]
    Path("odd.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    status, found = monitored("odd.jsonl")
    assert status == 3 and found["success"] is None and found["expected"] is None
    assert any(found["tests"][name]["alarm_at"] for name in ("surprise", "distance"))


def test_a_baseline_says_what_to_expect_and_what_is_known(monitored):
    write(Path("calm.jsonl"), ROWS[:40], lambda i: i % 10 > 0)
    write(Path("log.jsonl"), ROWS[40:])
    _, found = monitored("log.jsonl", "--baseline", "calm.jsonl")
    assert found["settings"]["expected_from"] == "36 of 40 in the baseline"
    assert found["settings"]["known_from"] == "calm.jsonl" and 70 < found["expected"] < 90


def test_an_evaluation_of_the_agent_says_what_to_expect(monitored, agent, tmp_path, refused):
    write(Path("log.jsonl"), ROWS[:5])
    settings = {"weights": {"mine": weights_digest(agent)}}
    run = {"nominal_success": 90.0, "intervals": {"nominal_success": [80.0, 95.0]}}
    folder = tmp_path / "evaluation"
    folder.mkdir()
    results = {"kind": "robustness", "version": 2, "runs": {"mine": run}, "settings": settings}
    (folder / "results.json").write_text(json.dumps(results))
    _, found = monitored("log.jsonl", "--evaluation", folder)
    assert found["expected"] == pytest.approx(80) and found["settings"]["expected_from"] == str(folder)
    # Also beside the model, as `aajr push --evaluation` leaves it.
    pushed = shutil.copytree(agent, tmp_path / "pushed")
    shutil.copytree(folder, pushed / "evaluation")
    main(["monitor", "log.jsonl", "--agent", str(pushed), *FEW])
    assert json.loads(Path("outputs/monitor/monitor.json").read_text())["expected"] == pytest.approx(80)
    results["settings"]["weights"] = {"mine": "other"}
    (folder / "results.json").write_text(json.dumps(results))
    message = refused("monitor", "log.jsonl", "--agent", agent, "--evaluation", folder)
    assert "`--evaluation`" in message and "has no numbers of" in message


def episode(rows):
    said = (json.loads(line) for line in lines(rows))
    step = {
        str(i): {"side": "model", "sees": one["observation"], "says": one["answer"], "expert": one["expected"]}
        for i, one in enumerate(said)
    }
    return json.dumps({"sides": {}, "transcript": [step]}) + "\n"


def test_episodes_are_compared_with_episodes_alone(monitored):
    Path("log.jsonl").write_text(episode(ROWS[:10]) + episode(ROWS[10:20]))
    _, found = monitored("log.jsonl", "--expected", 90)
    assert list(found["tests"]) == ["success"] and found["settings"]["known_from"] is None and found["answers"] == 20
    Path("calm.jsonl").write_text("".join(episode(ROWS[i : i + 5]) for i in range(20, 60, 5)))
    _, found = monitored("log.jsonl", "--baseline", "calm.jsonl")
    assert list(found["tests"]) == ["success", "surprise", "distance"] and not found["alarm"]


@pytest.mark.parametrize(("log", "baseline"), [("episodes", "single exchanges"), ("single", "whole episodes")])
def test_episodes_and_single_exchanges_are_not_compared(log, baseline, refused):
    both = {"single": "".join(lines(ROWS[:10])), "episodes": episode(ROWS[:10]) * 2}
    for name, content in both.items():
        Path(f"{name}.jsonl").write_text(content)
    (other,) = both.keys() - {log}
    message = refused("monitor", f"{log}.jsonl", "--agent", "x", "--expected", 90, "--baseline", f"{other}.jsonl")
    wanted = {"single": "single exchanges", "episodes": "whole episodes"}[log]
    assert f"`--baseline`: {other}.jsonl holds {baseline}, and {log}.jsonl {wanted}" in message
    assert message.endswith(f"give a baseline of {wanted}.")


def test_a_log_that_begins_after_the_monitor_is_compared_with_its_like_alone(monitored, agent, monkeypatch, capsys):
    monkeypatch.setattr(command, "_POLL_SECONDS", 0.05)
    Path("log.jsonl").touch()
    calm = write(Path("calm.jsonl"), ROWS[:10])
    threading.Timer(0.5, lambda: Path("log.jsonl").write_text(episode(ROWS[:10]))).start()
    assert main(["monitor", "log.jsonl", "--agent", str(agent), "--baseline", str(calm), "--follow", *FEW]) == 2
    assert "calm.jsonl holds single exchanges, and log.jsonl whole episodes" in capsys.readouterr().err


def test_a_growing_log_is_followed_until_the_alarm(monitored, monkeypatch):
    monkeypatch.setattr(command, "_POLL_SECONDS", 0.05)
    file = write(Path("log.jsonl"), ROWS[:5])
    rest = [*lines(ROWS, lambda i: False)]

    def grow():
        with file.open("a") as opened:
            opened.write("".join(rest[:2]) + rest[2][:7])
            opened.flush()
            threading.Event().wait(0.3)
            opened.write(rest[2][7:] + "".join(rest[3:]))

    writer = threading.Timer(0.3, grow)
    writer.start()
    status, found = monitored(file, "--expected", 95, "--follow")
    writer.join()
    assert status == 3 and 8 <= found["answers"] <= 65


def test_ctrl_c_while_following_keeps_what_is_known(monitored, agent, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    status, found = monitored(write(Path("log.jsonl"), ROWS[:5]), "--expected", 95, "--follow")
    assert status == 130 and found["answers"] == 5
    assert "interrupted: after 5 answers, without an alarm." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.jsonl"], "There is no log gone.jsonl: give a file of JSON lines."),
        (["log.jsonl", "--alpha", "1"], "`--alpha` must be between 0 and 1; got 1.0"),
        (["log.jsonl", "--expected", "0"], "`--expected` must be a percentage above 0 and up to 100; got 0.0"),
        (["log.jsonl", "--expected", "9", "--evaluation", "x"], "`--expected` and `--evaluation` both say what"),
        (["log.jsonl", "--examples", "1"], "`--examples` must be at least 2; got 1"),
        (["log.jsonl", "--batch_size", "0"], "`--batch_size` must be at least 1; got 0"),
        (["log.jsonl", "--metrics", "."], "`--metrics`: . is a folder: give the name of a file."),
        (["log.jsonl", "--baseline", "empty.jsonl"], "empty.jsonl has 0 complete lines"),
        (["empty.jsonl"], "empty.jsonl: there is no complete line."),
        (["broken.jsonl"], "broken.jsonl, line 1: `observation` must be a text; got None"),
        (["log.jsonl", "--evaluation", "gone"], "No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, message, agent, tmp_path, refused):
    write(tmp_path / "log.jsonl", ROWS[:3])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"answer": "x"}\n')
    assert message in refused("monitor", *arguments, "--agent", agent, *(FEW if "--examples" not in arguments else []))
