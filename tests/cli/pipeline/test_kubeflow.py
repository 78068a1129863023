"""Kubeflow Pipelines as the engine: the same steps and decisions, and one line where it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aajr_hf.cli.main import main
from aajr_hf.cli.pipeline import kubeflow
from aajr_hf.cli.pipeline.steps import GATES, STEPS
from tests.support import ROOT

KFP = ROOT / kubeflow.PYTHON
needs_kfp = pytest.mark.skipif(not KFP.exists(), reason="needs Kubeflow Pipelines: run `bash scripts/kfp.sh` first")
COMPILE = ["pipeline", "compile", "round/pipeline.yaml", "--image", "registry/aajr-hf:1", "--claim", "files"]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """
    Writes the settings of a pipeline whose commands have been run, in a folder: `decide` and `promote`, which run none,
    are not done.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    Path("agent").mkdir()
    Path("log.jsonl").write_text("{}\n")
    Path("recipe.yaml").write_text("epsilon: 0.125\n")

    def write(work: str, alarm: bool, better: bool) -> str:
        results = {
            "measure": {"agent": "agent", "alarm": alarm},
            "train": {"agent": f"{work}/candidate", "epsilon": 0.2},
            "compare": {"promote": better, "because": "it was measured"},
        }
        (tmp_path / work / "monitor").mkdir(parents=True)
        (tmp_path / work / "candidate").mkdir()
        for name, result in results.items():
            Path(work, STEPS[name]).write_text(json.dumps(result))
        Path(work, "monitor/monitor.json").write_text(json.dumps({"moved": {"measured": 9, "quantile": 0.3}}))
        settings = {"agent": "agent", "serving": f"{work}/serving", "logs": ["log.jsonl"], "recipe": "recipe.yaml"}
        Path(f"{work}.yaml").write_text(yaml.safe_dump(settings | {"work": work}))
        return f"{work}.yaml"

    return write


@needs_kfp
@pytest.mark.slow
@pytest.mark.parametrize(("alarm", "better"), [(False, True), (True, True)])
def test_both_engines_decide_the_same(measured, alarm, better, capfd):
    ends = {}
    for engine in ("local", "kfp"):
        file = measured(engine, alarm, better)
        assert main(["pipeline", "run", file, "--engine", engine, "--kfp", str(KFP)]) == 0
        said = capfd.readouterr().out.replace(engine, "work").strip().splitlines()
        serving = Path(engine, "serving")
        ends[engine] = {
            "decision": json.loads(Path(engine, "decide.json").read_text()),
            "promoted": Path(engine, "promote.json").exists(),
            "serving": serving.is_symlink() and serving.resolve().name,
            "said": said[-2:],
        }
        assert Path(engine, "pipeline.html").is_file()
    assert ends["kfp"] == ends["local"]
    assert ends["kfp"]["promoted"] == (alarm and better) and ends["kfp"]["decision"]["train"] == alarm


@needs_kfp
@pytest.mark.slow
def test_a_step_that_fails_ends_the_run_and_a_later_run_goes_on(measured, capfd):
    file = measured("work", True, True)
    Path("work/monitor/monitor.json").rename("away")
    assert main(["pipeline", "run", file, "--engine", "kfp", "--kfp", str(KFP)]) == 1
    assert "could not finish the pipeline" in capfd.readouterr().err
    assert not Path("work/decide.json").exists() and not Path("work/promote.json").exists()
    Path("away").rename("work/monitor/monitor.json")
    assert main(["pipeline", "run", file, "--engine", "kfp", "--kfp", str(KFP)]) == 0
    assert Path("work/promote.json").exists()


@needs_kfp
@pytest.mark.slow
def test_the_compiled_pipeline_runs_each_step_in_a_container_with_the_volume(capsys, tmp_path):
    file = tmp_path / "out" / "kubeflow.yaml"
    assert main([*COMPILE, "--kfp", str(KFP), "--gpus", "2", "--mount", "/data", "--output", str(file)]) == 0
    pipeline, platform = yaml.safe_load_all(file.read_text())
    executors = pipeline["deploymentSpec"]["executors"]
    assert [name.removeprefix("exec-") for name in executors] == sorted(STEPS)
    for step in STEPS:
        container = executors[f"exec-{step}"]["container"]
        assert container["image"] == "registry/aajr-hf:1" and container["command"][3:5] == ["/data", step]
        assert ("resources" in container) == (step in ("measure", "train", "compare"))
        mount = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]["pvcMount"][0]
        assert (mount["constant"], mount["mountPath"]) == ("files", "/data")
    # Each step that may end the pipeline has a branch of its own, and the rest of the steps stand in it.
    places, here = {}, pipeline["root"]["dag"]["tasks"]
    while here is not None:
        inner = [task["componentRef"]["name"] for name, task in here.items() if name not in STEPS]
        places |= {step: set(here) & set(STEPS) for step in here.keys() & GATES.keys()}
        here = pipeline["components"][inner[0]]["dag"]["tasks"] if inner else None
    assert places == {"decide": {"measure", "decide"}, "compare": {"train", "compare"}}
    assert pipeline["root"]["inputDefinitions"]["parameters"]["settings"]["defaultValue"] == "round/pipeline.yaml"


def test_the_command_of_a_container_is_one_that_aajr_has(measured, tmp_path):
    """What kfp is told to run, run by a shell."""
    source = Path(kubeflow.kubeflow_program.__file__).read_text()
    (command,) = [line.split("= ", 1)[1].strip("'") for line in source.splitlines() if "exec aajr" in line]
    command = command.replace("exec aajr", f"exec {sys.executable} -m aajr_hf")
    words = ["sh", "-c", command, str(tmp_path), "decide", measured("work", True, True), str(tmp_path / "out" / "on")]
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert (tmp_path / "out" / "on").read_text() == "true"
    Path("work/decide.json").write_text(json.dumps({"train": False, "because": "calm"}))
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert (tmp_path / "out" / "on").read_text() == "false"


@pytest.mark.parametrize(
    "command", [["pipeline", "run", "work.yaml", "--engine", "kfp"], COMPILE], ids=["run", "compile"]
)
@pytest.mark.parametrize("python", ["gone/python", "a file"])
def test_without_kubeflow_pipelines_one_line_names_the_script(measured, command, python, capsys):
    measured("work", True, True)
    if python == "a file":
        python = "no-kfp"
        Path(python).write_text("#!/bin/sh\nexit 1\n")
        Path(python).chmod(0o755)
        python = str(Path(python).resolve())
    assert main([*command, "--kfp", python]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {python} does not run Kubeflow Pipelines") and "`bash scripts/kfp.sh`" in error
    assert error.count("\n") == 1 and not Path("work/decide.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--claim", "Files"], "`--claim` must have lower-case letters"),
        (["--mount", "data"], "`--mount` must be an absolute path; got 'data'"),
        (["--gpus", "-1"], "`--gpus` must be at least 0; got -1"),
    ],
)
def test_a_wrong_option_is_one_line(options, message, capsys):
    assert main([*COMPILE, *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_command_of_the_pipeline_has_a_help_text_of_its_own(capsys):
    assert main(["pipeline", "run", "--help"]) == 0
    assert "--engine" in capsys.readouterr().out
