"""The `aajr` command: help, mistakes, and the way from nothing to a report, all on tiny sizes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from aajr_hf.cli.commands.train import COMMON_FIELDS
from aajr_hf.cli.main import COMMANDS, main
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.episodes.players import ALONE
from aajr_hf.training.config.sft import AAJRConfig
from aajr_hf.training.sharing.reading import trust_sentence
from tests.support import ROOT

from ..support.commands import FAST, fails
from ..support.forked import Forked
from ..support.no_drawing import no_drawing  # noqa: F401
from ..support.short_trust import short_trust  # noqa: F401


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: aajr {command}" in text and "\n" in text


def test_help_without_a_command(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert "  adapter-rank  measure" in text and "  rank " not in text


def test_a_command_answers_to_its_former_name(capsys):
    for command in ("rank", "adapter-rank"):
        assert "`model` is missing" in fails(capsys, command, "--use_cpu", "true")


@pytest.mark.parametrize("command", ["evaluate", "compare", "simulate"])
def test_the_help_of_what_attacks_names_all_attacks_and_the_threat_model(command, capsys):
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    options = [f"--{field.name}" for field in fields(ThreatModel)]
    options += ["--attack_steps", "--attack_restarts"]
    options += (
        ["--attack"] if command == "simulate" else ["--attacks", "--exhaustive", "--transfer_from", "--surrogate"]
    )
    assert all(f" {option} " in text for option in options) and "--sanity" not in text
    names = (*ALONE, "suite") if command == "simulate" else (*ATTACKS, "token")
    assert all(name in text for name in names)
    assert "in the recipes of the agents" in text


def test_the_help_of_train_shows_what_matters_and_the_rest_on_demand(capsys):
    def help_text(flag):
        assert main(["train", flag]) == 0
        return capsys.readouterr().out

    short = help_text("--help")
    assert all(f"--{name}" in short for name in (*COMMON_FIELDS, "epsilon", "model_name_or_path", "adapter_rank"))
    assert "--adam_beta1" not in short and "--packing" not in short
    # Defaults, once each, and what this command does with checkpoints, where Transformers says that nobody uses them.
    assert re.search(r"Radius of the perturbation ball.*?\(default:\s+0\.25\)", short, re.DOTALL)
    assert "Not directly used" not in short and "`auto`: the newest" in " ".join(short.split())
    assert "(default: None)" not in short and "(default: False)" not in short


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'"),
        (["train", "--config", "missing.yaml"], "no file missing.yaml"),
        (["train", "--config"], "`--config` needs the path"),
        (["train", "--epsilonn", "1"], "unknown option: `epsilonn`; did you mean `epsilon`?"),
        (["train", "--epsilon", "wide"], "argument --epsilon"),
        (["train", "--epsilon", "-1", "--use_cpu", "true"], "`epsilon` must be a finite number, at least 0"),
        (["train", "--use_cpu", "true"], "`model_name_or_path` is missing"),
        (["evaluate"], "required"),
        (["evaluate", "nowhere", "--examples", "0"], "`--examples` must be at least 1"),
        (["evaluate", "nowhere", "--epsilon", "-1"], "`--epsilon` must be a finite number of at least 0; got -1.0"),
        (["evaluate", "a/x", "b/x"], "named 'x'"),
        (["init-agent", str(ROOT)], "is not an empty folder"),
        (["init-agent", "x", "--steps", "0"], "`--steps` must be at least 1"),
        (["env", "--verbose"], "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("epsilonn: 1", "unknown key in recipe.yaml: `epsilonn`; did you mean `epsilon`?"),
        ("- 1", "must be a YAML mapping"),
        ("epsilon: [", "expected the node content"),
        ("regularizer: ajar", "`regularizer` must be one of"),
        ("penalty_interval: often", "argument --penalty_interval"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(recipe, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(recipe + "\n")
    assert message in fails(capsys, "train", "--config", "recipe.yaml", "--use_cpu", "true")


@pytest.mark.slow
def test_train_and_evaluate_end_to_end(agent, tmp_path, capsys):
    recipe = str(ROOT / "recipes" / "congestion" / "aajr.yaml")
    trained, report = tmp_path / "aajr", tmp_path / "report"
    where = ["--model_name_or_path", str(agent), "--output_dir", str(trained), *FAST]
    budget = ["--amplification_budget", "5", "--lambda_mode", "absolute"]
    assert main(["train", "--config", recipe, *where, *budget, "--ema_decay", "0.9"]) == 0
    assert AutoModelForCausalLM.from_pretrained(trained).num_parameters() > 1e6
    adapter = tmp_path / "lora"
    where = ["--model_name_or_path", str(agent), "--output_dir", str(adapter)]
    assert main(["train", "--config", recipe, *where, "--adapter", "lora", "--adapter_rank", "2", *FAST]) == 0
    assert (adapter / "adapter_config.json").is_file()

    again = fails(
        capsys, "train", "--config", recipe, "--model_name_or_path", str(agent), "--output_dir", str(trained), *FAST
    )
    assert "`output_dir`" in again and "overwrite" in again

    models = [f"base={agent}", f"aajr={trained}", f"lora={adapter}"]
    small = ["--examples", "4", "--attack_steps", "1", "--attack_restarts", "1", "--output", str(report)]
    assert main(["evaluate", *models, *small]) == 0
    printed = capsys.readouterr().out
    results = json.loads((report / "results.json").read_text())
    assert (
        list(results["runs"]) == ["base", "aajr", "aajr-ema", "lora"]
        and results["train_epsilon"] == AAJRConfig.epsilon
    )
    for name, run in results["runs"].items():
        assert name in printed
        assert set(run["worst_case_success"]) == set(run["sampled_worst_case_success"]) == {"0.5", "1", "1.5"}
        assert all(run[key] >= 0 for key in ("nominal_success", "sampled_success", "nominal_cost"))
        assert run["spectral_norm"] >= run["random_amplification"] > 0
        for field in ("worst_case_success", "sampled_worst_case_success"):
            found = [run[field][multiple] for multiple in ("0.5", "1", "1.5")]
            assert found == sorted(found, reverse=True)
        assert run["worst_case_success"]["0.5"] <= run["nominal_success"]
        cost = run["worst_case_cost"]
        assert cost["1.5"] >= cost["1"] >= cost["0.5"] >= run["nominal_cost"] - 1e-6
        assert run["transferred_from"] == sorted(set(results["runs"]) - {name})
    budgets = {name: run["membership"]["budget"] for name, run in results["runs"].items() if "membership" in run}
    assert budgets == {"aajr": 5, "aajr-ema": 5}
    assert results["runs"]["aajr"]["train_seconds"] > 0 and results["runs"]["base"]["train_seconds"] is None
    # That of the recipe.
    assert results["threat_model"] == asdict(ThreatModel())
    assert printed.splitlines()[-1] == f"Report: {report / 'report.html'}" and trust_sentence(results) in printed
    assert "<html" in (report / "report.html").read_text()
    assert {"report.html", "results.json"} < {path.name for path in report.iterdir()}


def test_a_missing_model_is_found_before_anything_is_written(agent, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = tmp_path / "report"
    assert "nowhere" in fails(capsys, "evaluate", str(agent), str(tmp_path / "nowhere"), "--output", str(report))
    assert not report.exists()


@pytest.mark.slow
def test_init_agent_makes_an_ordinary_model_folder(tmp_path, capsys):
    folder = tmp_path / "new" / "agent"
    assert main(["init-agent", str(folder), "--steps", "2", "--examples", "64"]) == 0
    assert "warning: success is below 99 %" in capsys.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert 1e6 <= model.num_parameters() <= 3e6
    assert [path.name for path in folder.parent.iterdir()] == ["agent"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "launched"), [(signal.SIGINT, []), (signal.SIGTERM, ["--accelerate_config", "single"])]
)
def test_an_interruption_saves_and_says_how_to_go_on(agent, tmp_path, number, launched):
    recipe = str(ROOT / "recipes" / "congestion" / "adversarial.yaml")
    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run")]
    # Without a checkpoint but the one that the signal makes.
    endless = ["--max_steps", "100000", "--save_strategy", "no", "--logging_steps", "1"]
    command = ["train", "--config", recipe, *where, *FAST, *endless, *launched]
    process = Forked(tmp_path / "printed", "aajr_hf", *command, PYTHONPATH=str(ROOT))
    deadline = time.monotonic() + 240
    while not (process.out.exists() and "step 1/" in process.out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    status, error = process.wait(120), process.err.read_text()
    assert status == 128 + number, error
    assert "Traceback" not in error
    last = next(line for line in error.splitlines() if line.startswith("interrupted: at step "))
    resumed = Path(re.search(r"--resume_from_checkpoint (\S+) \(or auto\)", last)[1])
    AutoModelForCausalLM.from_pretrained(resumed)
    assert not (tmp_path / "run" / "config.json").exists()
    done = int(resumed.name.split("-")[1])
    more = ["--resume_from_checkpoint", "auto", "--max_steps", str(done + 1)]
    assert main(["train", "--config", recipe, *where, *FAST, *more]) == 0
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == done + 1
    assert [log["step"] for log in state["log_history"]][0] == 1  # not from the beginning


@pytest.mark.slow
def test_a_run_is_not_replaced_unasked_and_leaves_nothing_when_it_is(agent, tmp_path, capsys):
    recipe = str(ROOT / "recipes" / "congestion" / "sft.yaml")
    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run"), *FAST]
    saving = ["--save_strategy", "steps", "--save_steps", "1"]
    assert main(["train", f"--config={recipe}", *where, *saving]) == 0
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["environment"] == "congestion" and written["save_steps"] == 1
    (tmp_path / "run" / "config.json").unlink()
    capsys.readouterr()
    assert "already contains a run: resume with --resume" in fails(capsys, "train", "--config", recipe, *where)
    assert main(["train", "--config", recipe, *where, "--overwrite", "true"]) == 0
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    capsys.readouterr()
    for value in ("auto", "false"):
        assert "contains a model" in fails(
            capsys, "train", "--config", recipe, *where, "--resume_from_checkpoint", value
        )


@pytest.mark.slow
def test_auto_starts_from_the_beginning_where_there_is_no_checkpoint(agent, tmp_path, caplog, capsys):
    recipe = str(ROOT / "recipes" / "congestion" / "sft.yaml")
    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run"), *FAST]
    assert main(["train", "--config", recipe, *where, "--resume_from_checkpoint", "auto"]) == 0
    assert f"There is no checkpoint in {tmp_path / 'run'}" in caplog.text
    capsys.readouterr()
    broken = tmp_path / "checkpoint-1"
    broken.mkdir()
    message = fails(capsys, "train", "--config", recipe, *where, "--resume_from_checkpoint", str(broken))
    assert "has no trainer_state.json" in message and "auto" in message


def test_a_reader_that_has_had_enough_is_no_error():
    command = [sys.executable, "-m", "aajr_hf", "recipes", "congestion/aajr"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""


def test_env_prints_what_a_bug_report_needs(capsys):
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("torch", "transformers", "trl", "peft", "accelerate", "Accelerator"))
    # The same answers as the trainer's own choice: tests/training/adversary/test_estimators.py.
    assert "  - sdpa: exact\n" in text and "  - eager: exact\n" in text
    assert re.search(r"  - flash_attention_2: (not available|finite differences) \(", text)


@pytest.mark.slow
def test_env_prints_nothing_else_and_imports_no_trainer():
    code = "import sys; from aajr_hf.cli.main import main; main(['env']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert all(line.startswith(("- ", "  - ")) for line in done.stdout.splitlines())
    # On a machine that has much else to do, it says that it goes on.
    assert [line for line in done.stderr.splitlines()[:-1] if not line.startswith("aajr env | ")] == []
    # Which would take longer than all the rest: `aajr env` is done within five seconds.
    assert {"datasets", "trl.trainer.sft_trainer", "torch._inductor.compile_fx"}.isdisjoint(done.stderr.split())
