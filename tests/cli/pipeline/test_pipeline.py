"""The pipeline: what each step decides, where an interrupted one goes on, and that a promotion happens at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
import yaml

from aajr_hf.cli.common.errors import RunError, UserError
from aajr_hf.cli.main import main
from aajr_hf.cli.pipeline.promotion import promote
from aajr_hf.cli.pipeline.settings import PipelineSettings, read_settings
from aajr_hf.cli.pipeline.steps import STEPS, Pipeline, decision, next_step, verdict

MOVED = {"measured": 9, "unmeasured": 0, "median": 0.2, "quantile": 0.3, "largest": 0.4}


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Settings of a pipeline whose files exist, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("agent").mkdir()
    Path("log.jsonl").write_text("{}\n")
    Path("recipe.yaml").write_text("epsilon: 0.125\n")
    return {"agent": "agent", "serving": "serving", "logs": ["log.jsonl"], "recipe": "recipe.yaml", "work": "work"}


class Commands:
    """Plays the commands of `aajr`; `killed`: the process dies in the command of this name."""

    def __init__(self, alarm=True, worst=(0, 1), nominal=(1, 1), killed=None):
        self.alarm, self.worst, self.nominal, self.killed, self.ran = alarm, worst, nominal, killed, []

    def __call__(self, argv):
        self.ran.append(argv)
        folder = Path(argv[argv.index("--output_dir" if argv[0] == "train" else "--output") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if self.killed == argv[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if argv[0] == "monitor":
            (folder / "monitor.json").write_text(json.dumps({"moved": MOVED}))
            return 3 if self.alarm else 0
        if argv[0] == "evaluate":
            runs = {
                name: {"outcomes": {"worst_case_success": {"1": [w] * 40}, "nominal_success": [n] * 40}}
                for name, w, n in zip(("current", "candidate"), self.worst, self.nominal, strict=True)
            }
            (folder / "results.json").write_text(json.dumps({"runs": runs}))
        return 0

    @property
    def names(self):
        return [argv[0] for argv in self.ran]


def finish(given, commands):
    pipeline = Pipeline(PipelineSettings(**given), commands)
    while (step := next_step(pipeline)[0]) is not None:
        getattr(pipeline, step)()
    return pipeline


def test_after_an_alarm_a_better_agent_takes_the_place_of_the_old_one(given):
    commands = Commands()
    pipeline = finish(given | {"train": {"max_steps": 5, "bf16": False}, "expected": 97, "margin": 2.0}, commands)
    assert commands.names == ["monitor", "train", "evaluate"]
    monitor, train, evaluate = commands.ran
    assert monitor[monitor.index("--expected") + 1] == "97" and "--baseline" not in monitor
    assert train[train.index("--epsilon") + 1] == evaluate[evaluate.index("--epsilon") + 1] == "0.6"
    assert train[-4:] == ["--max_steps", "5", "--bf16", "false"]
    assert Path("serving").resolve() == Path("work/candidate").resolve() == pipeline.settings.current
    assert next_step(pipeline) == (None, "the new agent is in use")
    assert pipeline.read("promote.json")["before"] == "agent"
    # The next round, with another folder, measures the new agent.
    again = Commands(alarm=False)
    finish(given | {"work": "next"}, again)
    assert again.names == ["monitor"]
    assert again.ran[0][again.ran[0].index("--agent") + 1] == str(Path("work/candidate").resolve())


@pytest.mark.parametrize(
    ("commands", "ran", "words"),
    [
        (Commands(alarm=False), ["monitor"], "is not trained: no test raised an alarm"),
        (Commands(worst=(1, 1)), ["monitor", "train", "evaluate"], "stays in use: under all attacks"),
        (Commands(nominal=(1, 0)), ["monitor", "train", "evaluate"], "100.0 points less"),
    ],
    ids=["calm", "no better", "worse without attack"],
)
def test_without_an_alarm_or_a_better_agent_nothing_is_replaced(given, commands, ran, words):
    pipeline = finish(given, commands)
    assert commands.names == ran and Path("serving").resolve() == Path("agent").resolve()
    step, why = next_step(pipeline)
    assert step is None and words in why and not Path("work/promote.json").exists()


def test_the_radius_is_the_margin_times_the_estimate(given):
    settings = PipelineSettings(**given)
    assert decision(False, MOVED, settings, 0.1)["train"] is False
    assert decision(True, MOVED, settings, 0.1)["epsilon"] == pytest.approx(1.1 * 0.3)
    for moved in (None, MOVED | {"measured": 0}):
        assert decision(True, moved, settings, 0.125)["epsilon"] == 0.125
        assert decision(True, moved, PipelineSettings(**given, epsilon=0.5), 0.125)["epsilon"] == 0.5


def test_better_means_beyond_chance():
    few = [{"outcomes": {"worst_case_success": {"1": [v] * 4}, "nominal_success": [1.0] * 4}} for v in (0.0, 1.0)]
    assert verdict(*few, 2.0)["promote"] is False  # p = 0.125
    many = [{"outcomes": {"worst_case_success": {"1": [v] * 10}, "nominal_success": [1.0] * 10}} for v in (0.0, 1.0)]
    found = verdict(*many, 2.0)
    assert found["promote"] is True and found["worst_case"] == 100 and found["nominal"] == 0


def _until_killed(given, command):
    finish(given, Commands(killed=command))


@pytest.mark.parametrize("command", ["monitor", "train", "evaluate"])
def test_a_pipeline_that_is_killed_in_a_step_goes_on_with_it(given, command):
    process = multiprocessing.get_context("fork").Process(target=_until_killed, args=(given, command))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    commands = Commands()
    finish(given, commands)
    order = ["monitor", "train", "evaluate"]
    assert commands.names == order[order.index(command) :]
    assert Path("serving").resolve() == Path("work/candidate").resolve()
    if command == "train":  # what the killed training left is replaced
        assert "--overwrite" in commands.ran[0]


def test_who_opens_the_agent_sees_the_old_one_or_the_new_one(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    link, seen, stop = tmp_path / "serving", set(), threading.Event()
    promote(link, folders[0])

    def read():
        while not stop.is_set():
            seen.add((link / "config.json").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(300):
        promote(link, folders[i % 2])
    stop.set()
    reader.join()
    assert seen == {"a", "b"} and sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "serving"]


def test_a_command_that_fails_ends_the_run_and_nothing_is_said_to_be_done(given):
    pipeline = Pipeline(PipelineSettings(**given), lambda argv: 2)
    with pytest.raises(RunError, match="`aajr monitor log.jsonl .* ended with status 2"):
        pipeline.measure()
    assert next_step(pipeline)[0] == "measure"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agnet": "x"}, "unknown setting `agnet`: choose from agent, serving,"),
        ({"recipe": None}, "`recipe` is missing"),
        ({"agent": "gone"}, "`agent`: there is no folder gone"),
        ({"agent": 3}, "`agent` must be a path; got 3"),
        ({"logs": "log.jsonl"}, "`logs` must be a list of texts; got 'log.jsonl'"),
        ({"logs": ["gone"]}, "`logs`: there is no file gone"),
        ({"baseline": "gone"}, "`baseline`: there is no file gone"),
        ({"recipe": "gone.yaml"}, "`recipe`: there is no file gone.yaml"),
        ({"margin": 0}, "`margin` must be a number above 0; got 0"),
        ({"alpha": 2}, "`alpha` must be a number above 0 and up to 1; got 2"),
        ({"nominal_loss": -1}, "`nominal_loss` must be a number from 0 to 100; got -1"),
        ({"train": [1]}, "`train` must be a mapping of fields of the recipe; got [1]"),
        ({"serving": "agent"}, "`serving`: agent exists and is no link"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(given, change, message, capsys):
    content = {name: value for name, value in (given | change).items() if value is not None}
    Path("pipeline.yaml").write_text(yaml.safe_dump(content))
    assert main(["pipeline", "run", "pipeline.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pipeline.yaml: ") and message in error and error.count("\n") == 1
    assert not Path("work").exists() and not Path("serving").is_symlink()


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("{")
    with pytest.raises(UserError, match="pipeline.yaml cannot be read"):
        read_settings(tmp_path / "pipeline.yaml")


def test_the_command_runs_steps_says_what_is_done_and_writes_a_page(given, monkeypatch, capsys):
    Path("pipeline.yaml").write_text(yaml.safe_dump(given))
    commands = Commands()
    monkeypatch.setattr(Pipeline.__init__, "__defaults__", (commands,))
    assert main(["pipeline", "run", "pipeline.yaml", "--dry_run"]) == 0
    assert "measure: not done" in capsys.readouterr().out and not Path("work").exists()
    assert main(["pipeline", "step", "decide", "pipeline.yaml"]) == 2
    assert "`decide` is not the next step: run `measure` first." in capsys.readouterr().err
    for step in STEPS:
        assert main(["pipeline", "step", step, "pipeline.yaml"]) == 0
    assert main(["pipeline", "step", "measure", "pipeline.yaml"]) == 0
    assert "done before" in capsys.readouterr().out
    # Steps one by one end where a whole run does.
    by_steps = {name: json.loads(Path("work", file).read_text()) for name, file in STEPS.items()}
    assert main(["pipeline", "run", "pipeline.yaml"]) == 0 and commands.names == ["monitor", "train", "evaluate"]
    assert "In use: work/candidate." in capsys.readouterr().out
    Path("serving").unlink()
    whole = given | {"work": "whole"}
    Path("whole.yaml").write_text(yaml.safe_dump(whole))
    assert main(["pipeline", "run", "whole.yaml"]) == 0
    for name in ("decide", "compare"):
        assert json.loads(Path("whole", f"{name}.json").read_text()) == by_steps[name]
    page = Path("work/pipeline.html").read_text()
    assert "The new agent is in use" in page and "an alarm; the radius is 1.1 times" in page
