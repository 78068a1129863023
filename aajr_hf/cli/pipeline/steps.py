"""
The steps of a pipeline. Each reads files and writes one file when it is done, so that a pipeline that was killed at any
moment goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...evaluation.files import replace_file
from ...evaluation.reporting.statistics import paired_difference
from ..common.errors import RunError
from ..common.heartbeat import HEARTBEAT
from .promotion import promote
from .settings import PipelineSettings

_MONITOR_ALARM = 3
# The comparison is made at the training radius.
_MULTIPLE = "1"
# A command of `aajr` by its arguments -> its exit status.
Runner = Callable[[list[str]], int]


def in_a_process(argv: list[str]) -> int:
    """Run a command of `aajr` in a process of its own, which says itself how far it is."""
    with HEARTBEAT.during(None):
        return subprocess.run([sys.executable, "-m", "aajr_hf", *argv]).returncode


@dataclass
class Pipeline:
    """
    The steps with their settings.

    Args:
        run: Runs the commands.
    """

    settings: PipelineSettings
    run: Runner = in_a_process

    @property
    def work(self) -> Path:
        return Path(self.settings.work)

    def read(self, name: str) -> dict[str, Any]:
        return json.loads((self.work / name).read_text(encoding="utf-8"))

    def _write(self, name: str, content: dict[str, Any]) -> None:
        replace_file(self.work / name, (json.dumps(content, indent=2) + "\n").encode())

    def _command(self, argv: list[str], allowed: tuple[int, ...] = (0,)) -> int:
        status = self.run(argv)
        if status not in allowed:
            raise RunError(f"`aajr {' '.join(argv)}` ended with status {status}: its own message says why.")
        return status

    def measure(self) -> None:
        """Test the logs for a change; writes the alarm and the agent in use."""
        settings, current = self.settings, self.settings.current
        if not Path(settings.serving).is_symlink():
            promote(Path(settings.serving), current)
        argv = ["monitor", *settings.logs, "--agent", str(current), "--alpha", str(settings.alpha)]
        argv += ["--output", str(self.work / "monitor")]
        argv += [] if settings.expected is None else ["--expected", str(settings.expected)]
        argv += [] if settings.baseline is None else ["--baseline", settings.baseline]
        status = self._command(argv, (0, _MONITOR_ALARM))
        self._write("measure.json", {"agent": str(current), "alarm": status == _MONITOR_ALARM})

    def decide(self) -> None:
        """Decide whether to train, and with which radius."""
        alarm, monitor = self.read("measure.json")["alarm"], self.read("monitor/monitor.json")
        recipe = yaml.safe_load(Path(self.settings.recipe).read_text(encoding="utf-8")).get("epsilon")
        self._write("decide.json", decision(alarm, monitor["moved"], self.settings, recipe))

    def train(self) -> None:
        """Train the agent in use further. An interrupted training is resumed."""
        # Imported late, because it takes seconds, which the other steps need not wait for.
        from ...training.runs.checkpoints import INCOMPLETE, newest_checkpoint

        candidate, epsilon = self.work / "candidate", self.read("decide.json")["epsilon"]
        argv = ["train", "--config", self.settings.recipe, "--model_name_or_path", self.read("measure.json")["agent"]]
        argv += ["--output_dir", str(candidate), "--epsilon", str(epsilon)]
        argv += [part for name, value in self.settings.train.items() for part in (f"--{name}", _text(value))]
        if candidate.exists() and newest_checkpoint(candidate) is not None:
            argv += ["--resume_from_checkpoint", "auto"]
        elif candidate.exists():
            argv += ["--overwrite", "true"]
        self._command(argv)
        if (candidate / INCOMPLETE).exists():
            raise RunError(f"The training in {candidate} is incomplete: run the pipeline again.")
        self._write("train.json", {"agent": str(candidate), "epsilon": epsilon})

    def compare(self) -> None:
        """Attack both agents with the same attacks, and say which is better."""
        argv = ["evaluate", f"current={self.read('measure.json')['agent']}", f"candidate={self.work / 'candidate'}"]
        argv += ["--epsilon", str(self.read("decide.json")["epsilon"]), "--multiples", _MULTIPLE]
        argv += ["--attacks", *self.settings.attacks, "--examples", str(self.settings.examples)]
        self._command([*argv, "--output", str(self.work / "evaluation")])
        runs = self.read("evaluation/results.json")["runs"]
        self._write("compare.json", verdict(runs["current"], runs["candidate"], self.settings.nominal_loss))

    def promote(self) -> None:
        """Put the new agent in the place of the old one."""
        before = self.read("measure.json")["agent"]
        promote(Path(self.settings.serving), self.work / "candidate")
        self._write("promote.json", {"before": before, "now": str((self.work / "candidate").resolve())})


def decision(
    alarm: bool, moved: dict[str, Any] | None, settings: PipelineSettings, recipe_epsilon: float | None
) -> dict[str, Any]:
    """
    Return whether to train, the radius `epsilon`, and why. With known lengths of perturbations, the radius is `margin`
    times the length that a tenth of them exceeds; otherwise that of the settings, or of the recipe.
    """
    if not alarm:
        return {"train": False, "epsilon": None, "because": "no test raised an alarm"}
    if moved is not None and moved["measured"]:
        epsilon = settings.margin * moved["quantile"]
        why = (
            f"{settings.margin:g} times the attack's radius {moved['quantile']:.3g}, from {moved['measured']} prompts"
        )
    elif settings.epsilon is not None:
        epsilon, why = settings.epsilon, "`epsilon` of the pipeline, because no attack's radius is known"
    else:
        epsilon = 0.25 if recipe_epsilon is None else recipe_epsilon
        why = "the recipe's radius, because no attack's radius is known"
    return {"train": True, "epsilon": epsilon, "because": f"an alarm; the radius is {why}"}


def verdict(current: dict[str, Any], candidate: dict[str, Any], nominal_loss: float) -> dict[str, Any]:
    """
    Return whether the new agent is better: beyond chance under all attacks, and without attack not worse by more than
    `nominal_loss` points.
    """
    worst, nominal = (
        paired_difference(*(_outcomes(run, field) for run in (candidate, current)))
        for field in ("worst_case_success", "nominal_success")
    )
    better = worst.sign > 0 and nominal.points >= -nominal_loss
    because = (
        f"under all attacks, the new agent is right {worst.text()}; without attack {nominal.text()}, of which "
        f"{nominal_loss:g} points may be lost"
    )
    return {"promote": better, "worst_case": worst.points, "nominal": nominal.points, "because": because}


def _outcomes(run: dict[str, Any], field: str) -> list[float]:
    found = run["outcomes"][field]
    return found[_MULTIPLE] if isinstance(found, dict) else found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# The steps in their order, each with the file that it writes at its end.
STEPS = {name: f"{name}.json" for name in ("measure", "decide", "train", "compare", "promote")}

# The steps that may end the pipeline, each with the field of its result that says so, and what becomes of the agent then.
GATES = {"decide": ("train", "is not trained"), "compare": ("promote", "stays in use")}


def goes_on(pipeline: Pipeline, name: str) -> bool:
    """Return whether the pipeline goes on after a step that is done."""
    return name not in GATES or pipeline.read(STEPS[name])[GATES[name][0]]


def next_step(pipeline: Pipeline) -> tuple[str | None, str]:
    """Return the next step, and why; None if the pipeline is at its end."""
    for name, file in STEPS.items():
        if not (pipeline.work / file).is_file():
            return name, "its result is not there yet"
        if not goes_on(pipeline, name):
            return None, f"the agent {GATES[name][1]}: {pipeline.read(file)['because']}"
    return None, "the new agent is in use"
