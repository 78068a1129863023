"""`aajr train` on several processes: the configurations, what goes to the launcher, and two real processes on the CPU."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from transformers import AutoModelForCausalLM

from aajr_hf.cli.arguments import parsing
from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.parsing import RecipeParser, read_recipe
from aajr_hf.cli.common.errors import UserError
from aajr_hf.cli.launching import launch
from aajr_hf.cli.main import main
from aajr_hf.training.config.sft import AAJRConfig
from aajr_hf.training.runs.checkpoints import newest_checkpoint
from tests.support import ROOT
from tests.support.commands import FAST, fails
from tests.support.forked import Forked, run_together

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
    """The command in a process of its own, which starts others."""
    where = ["--model_name_or_path", agent, "--output_dir", output, "--main_process_port", "0"]
    command = ["train", "--config", RECIPE, *where, *FAST, *more]
    return Forked(output.parent / "printed", "aajr_hf", *command, ignoring=ignoring, PYTHONPATH=str(ROOT))


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_save_once(agent, tmp_path):
    where = ["--model_name_or_path", agent, "--output_dir", tmp_path / "run", "--ddp_backend", "gloo"]
    run_together(tmp_path / "printed", "aajr_hf", "train", "--config", RECIPE, *where, *FAST)
    printed = [(tmp_path / "printed" / f"rank-{rank}" / "stdout").read_text() for rank in (0, 1)]
    assert [text.count("Model saved to") for text in printed] == [1, 0]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").num_parameters() > 1e6
    # 16 examples, two processes of 4 each: one pass in two steps.
    assert '"epoch": 1.0' in (tmp_path / "run" / "trainer_state.json").read_text()


@pytest.mark.slow
def test_a_mistake_that_the_processes_find_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    def launched(parsed):
        """In place of two processes: what each of them does."""
        failures = {}
        for rank in range(parsed.num_processes):
            file = tmp_path / f"error-{rank}.json"
            with patch_environment(RANK=rank, TORCHELASTIC_ERROR_FILE=file):
                failures[rank] = ProcessFailure(rank, 1, main(parsed.training_script_args), str(file))
        raise ChildFailedError("train", failures)

    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched)
    where = ["--model_name_or_path", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "run")]
    assert "nowhere" in fails(capsys, "train", "--config", RECIPE, *where, *FAST, "--num_processes", "2")
    assert not (tmp_path / "run").exists()


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
    status, error = process.wait(120), process.err.read_text()
    assert status == 128 + number, error
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
    status, error = process.wait(120), process.err.read_text()
    assert time.monotonic() - killed < 60
    assert status == 128 + signal.SIGKILL and "process 1 was ended by SIGKILL" in error
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
