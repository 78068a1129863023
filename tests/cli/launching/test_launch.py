"""`aajr train` on several processes: the configurations, what goes to the launcher, and two real processes on the CPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModelForCausalLM

from aajr_hf.cli.arguments import parsing
from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.parsing import RecipeParser, read_recipe
from aajr_hf.cli.common.errors import UserError
from aajr_hf.cli.launching import launch
from aajr_hf.training.config.sft import AAJRConfig
from aajr_hf.training.runs.checkpoints import newest_checkpoint
from tests.support import ROOT
from tests.support.commands import FAST, fails

CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
RECIPE = str(ROOT / "recipes" / "congestion" / "sft.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_one_that_accelerate_knows(path):
    head = path.read_text().split("\n\n")[0]
    assert head.startswith("# ") and f"aajr train --accelerate_config {path.stem}" in head and "# Change:" in head
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.num_processes == {"single": 1, "ddp_cpu": 2, "fsdp2_cpu": 2}.get(path.stem, 8)
    assert config.use_cpu == path.stem.endswith("_cpu")
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= known
    assert bool(config.fsdp_config) == (config.distributed_type.value == "FSDP")
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_version"] == 2
        # Accelerate's own default has rank 0 alone read the weights.
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if config.deepspeed_config:
        # Left out, DeepSpeed would clip at 1 and not accumulate.
        assert config.deepspeed_config["gradient_clipping"] == "auto"
        assert config.deepspeed_config["gradient_accumulation_steps"] == "auto"
        assert f"zero{config.deepspeed_config['zero_stage']}" == path.stem


def test_a_configuration_is_a_name_or_a_file(tmp_path):
    assert launch.config_file("fsdp2") == ROOT / "accelerate_configs" / "fsdp2.yaml"
    own = tmp_path / "mine.yaml"
    own.write_text(yaml.safe_dump({"distributed_type": "NO"}))
    assert launch.config_file(str(own)) == own
    with pytest.raises(UserError, match="must be one of ddp, ddp_cpu, fsdp2, fsdp2_cpu, single, zero1, zero2, zero3"):
        launch.config_file("fsdp3")


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        ("--config r.yaml --epsilon 1", ""),
        ("--config r.yaml --main_process_port 0 --epsilon 1", "--main_process_port 0"),
        ("--main-process-port=0 --gpu_ids 0,1 --config r.yaml", "--main-process-port=0 --gpu_ids 0,1"),
        ("--multi_gpu --epsilon 1 --mixed_precision bf16", "--multi_gpu --mixed_precision bf16"),
        # Both know these: they stay.
        ("--debug underflow_overflow --gradient_accumulation_steps 2", ""),
        # Neither does, or it is not the user's to say.
        ("--epsilonn 1 --num_machines 2", "--num_machines 2"),
        ("--config_file x --module y --no_python", ""),
    ],
)
def test_what_only_the_launcher_knows_goes_to_it(argv, flags):
    parser = RecipeParser((TrainArguments, launch.LaunchArguments, AAJRConfig), prog="aajr train")
    ours, theirs = launch.split_flags(parser, argv.split())
    assert theirs == flags.split()
    assert sorted(ours + theirs) == sorted(argv.split())


def test_the_recipe_may_ask_for_a_launch_and_a_launched_process_does_not(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("accelerate_config: ddp_cpu\nnum_processes: 3\nepsilon: 0.1\n")
    parser = RecipeParser((TrainArguments, launch.LaunchArguments, AAJRConfig), prog="aajr train")
    arguments = launch.launch_arguments(parser, parser.check(["--config", str(recipe), "--num_processes", "2"]))
    assert arguments == launch.LaunchArguments("ddp_cpu", 2)
    assert launch.is_wanted(arguments, []) and launch.is_wanted(launch.LaunchArguments(), ["--multi_gpu"])
    assert not launch.is_wanted(launch.LaunchArguments(), [])
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not launch.is_wanted(arguments, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accelerate_config", "fsdp3"], "`accelerate_config` must be one of"),
        (["--accelerate_config", "ddp_cpu", "--epsilonn", "1"], "unknown option: `epsilonn`; did you mean `epsilon`?"),
        (["--accelerate_config", "ddp_cpu", "--epsilon", "-1"], "`epsilon` must be"),
        (["--num_processes", "two"], "argument --num_processes"),
        (["--num_processes", "2", "--config_file", "x"], "unknown option: `config_file`"),
        (["--num_processes", "2", "--num_machines", "two"], "argument --num_machines"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_found_before_anything_is_launched(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda _: pytest.fail("launched"))
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "train", "--config", RECIPE, *arguments)
    assert not list(tmp_path.iterdir())


def start(agent, output, *more, ignoring=None):
    """The command in a process of its own; `ignoring`: a signal, as a shell's background jobs ignore Ctrl-C."""
    where = ["--model_name_or_path", str(agent), "--output_dir", str(output), "--main_process_port", "0"]
    command = [sys.executable, "-m", "aajr_hf", "train", "--config", RECIPE, *where, *FAST, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    ignore = None if ignoring is None else lambda: signal.signal(ignoring, signal.SIG_IGN)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=ignore, **pipes)


@pytest.mark.slow
def test_two_processes_train_and_save_once(agent, tmp_path):
    process = start(agent, tmp_path / "run", "--accelerate_config", "ddp_cpu", "--logging_steps", "1")
    printed, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert printed.count("Model saved to") == 1
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").num_parameters() > 1e6
    # 16 examples, two processes of 4 each: one pass in two steps.
    assert '"epoch": 1.0' in (tmp_path / "run" / "trainer_state.json").read_text()


@pytest.mark.slow
def test_a_mistake_that_the_processes_find_is_one_line_and_status_2(agent, tmp_path):
    process = start(agent, tmp_path / "run", "--num_processes", "2", "--model_name_or_path", str(tmp_path / "nowhere"))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2, error
    assert error.count("error: ") == 1 and "nowhere" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_fsdp_shards_on_a_cpu_too():
    """Accelerate alone falls back to plain data parallelism there, in silence."""
    code = (
        "from accelerate import Accelerator; from aajr_hf.cli.launching.worker import shard_on_cpu; shard_on_cpu();"
        "a = Accelerator(cpu=True); print(a.distributed_type.value, a.state.fsdp_plugin.fsdp_version, a.device.type)"
    )
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "PYTHONPATH": str(ROOT)}
    environment = os.environ | ranks | fsdp
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["FSDP", "2", "cpu"]


ENDLESS = ["--max_steps", "100000", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "3"]


def wait_for_a_checkpoint(folder):
    deadline = time.monotonic() + 120
    while newest_checkpoint(folder) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert newest_checkpoint(folder) is not None


@pytest.mark.slow
def test_an_interruption_saves_in_all_processes_and_says_how_to_go_on(agent, tmp_path):
    number = signal.SIGINT  # the other one is in `tests/cli/test_main.py`
    process = start(agent, tmp_path / "run", "--accelerate_config", "ddp_cpu", *ENDLESS, ignoring=number)
    wait_for_a_checkpoint(tmp_path / "run")
    process.send_signal(number)
    _, error = process.communicate(timeout=120)  # returns once every process has closed its end
    assert process.returncode == 128 + number, error
    found = re.findall(r"interrupted: at step (\d+); resume with --resume_from_checkpoint (\S+)", error)
    assert len(found) == 1, error
    step, checkpoint = found[0]
    assert Path(checkpoint) == newest_checkpoint(tmp_path / "run") and checkpoint.endswith(f"-{step}")
    assert (Path(checkpoint) / "rng_state_1.pth").is_file()
    AutoModelForCausalLM.from_pretrained(Path(checkpoint))


@pytest.mark.slow
def test_when_one_process_dies_the_others_end_within_a_minute(agent, tmp_path):
    process = start(agent, tmp_path / "run", "--accelerate_config", "ddp_cpu", *ENDLESS)
    wait_for_a_checkpoint(tmp_path / "run")
    ranks = psutil.Process(process.pid).children(recursive=True)
    victim = next(p for p in ranks if p.environ().get("RANK") == "1")
    victim.kill()
    killed = time.monotonic()
    _, error = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode == 128 + signal.SIGKILL and "process 1 was ended by SIGKILL" in error
    assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert newest_checkpoint(tmp_path / "run") is not None


def test_the_recipe_is_read_once(tmp_path, monkeypatch):
    recipe, reads = tmp_path / "recipe.yaml", []
    recipe.write_text("accelerate_config: fsdp2_cpu\nepsilon: 0.125\n")
    monkeypatch.setattr(parsing, "read_recipe", lambda path: reads.append(path) or read_recipe(path))
    parser = RecipeParser((TrainArguments, launch.LaunchArguments, AAJRConfig), prog="aajr train")
    argv = parser.check([f"--config={recipe}", "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"])
    assert launch.launch_arguments(parser, argv).accelerate_config == "fsdp2_cpu"
    parsed = parser.parse(argv)
    assert parsed[2].epsilon == 0.125 and parser.given(argv, parsed)["epsilon"] == 0.125
    assert reads == [recipe]
