"""Models and adapters that are in folders already: trained on, resumed, refused, and saved as they came."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.main import main
from tests.support import ROOT
from tests.support.commands import FAST

RECIPE = str(ROOT / "recipes" / "congestion" / "sft.yaml")
LORA = ["--adapter", "lora", "--adapter_rank", "2"]


def command(model, output, *more):
    where = ["--model_name_or_path", str(model), "--output_dir", str(output)]
    return ["train", "--config", RECIPE, *where, *FAST, *more]


def padding_side(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())["padding_side"]


@pytest.fixture(scope="module")
def left(agent, tmp_path_factory):
    """The agent with a tokenizer for generation in batches, which pads on the left."""
    folder = tmp_path_factory.mktemp("left") / "base"
    shutil.copytree(agent, folder)
    AutoTokenizer.from_pretrained(agent, padding_side="left").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(left, tmp_path_factory):
    """An adapter with a checkpoint."""
    folder = tmp_path_factory.mktemp("adapter") / "run"
    assert main(command(left, folder, *LORA, "--save_strategy", "steps", "--save_steps", "2")) == 0
    return folder


@pytest.mark.slow
def test_the_tokenizer_keeps_its_padding_side(agent, left, adapter, tmp_path):
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    for folder in (left, adapter, adapter / "checkpoint-2", tmp_path / "merged"):
        assert padding_side(folder) == "left", folder
    assert main(command(agent, tmp_path / "right")) == 0
    assert padding_side(agent) == padding_side(tmp_path / "right") == "right"


@pytest.mark.slow
def test_training_on_the_left_is_training_on_the_right(agent, left, tmp_path):
    for base, name in ((agent, "right"), (left, "left")):
        assert main(command(base, tmp_path / name, "--per_device_train_batch_size", "3")) == 0
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("left", "right"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_an_adapter_is_trained_on(adapter, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, tmp_path / "bare")
    for start in (adapter, tmp_path / "bare"):  # the second has no tokenizer of its own
        assert main(command(start, tmp_path / "more", "--overwrite", "true")) == 0
        assert "Trained: lora" in capsys.readouterr().out
        assert json.loads((tmp_path / "more" / "adapter_config.json").read_text())["r"] == 2
    assert (
        main(["inspect", "--config", RECIPE, "--model_name_or_path", str(adapter), "--environment_examples", "2"]) == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--adapter", "lora", "--adapter_rank", "4"], "`adapter_rank` is 4"),
        (["--adapter", "dora", "--adapter_rank", "2"], "`adapter` is dora"),
        (["--use_peft", "true"], "`use_peft` adds an adapter"),
    ],
    ids=["rank", "kind", "peft"],
)
def test_another_adapter_than_the_one_to_go_on_with_is_refused(adapter, refused, more, message):
    assert message in refused(*command(adapter, "more", *more))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--adapter", "lora", "--adapter_rank", "4"], "`adapter_rank` is 4"),
        ([], "`adapter` is full"),
        (["--use_peft", "true", "--lora_r", "4"], "`lora_r` is 4"),
        ([*LORA, "--adapter_options", '{"lora_alpha": 1}'], "`adapter_options`: lora_alpha is 1"),
    ],
    ids=["rank", "full", "peft", "options"],
)
def test_a_run_is_resumed_with_its_own_adapter_alone(left, adapter, refused, more, message):
    assert message in refused(*command(left, adapter, *more, "--resume_from_checkpoint", "auto"))


@pytest.mark.slow
def test_a_run_without_an_adapter_is_resumed_without_one(left, tmp_path, refused):
    run = tmp_path / "run"
    assert main(command(left, run, "--save_strategy", "steps", "--save_steps", "2")) == 0
    for more, message in ((LORA, "`adapter` is lora"), (["--use_peft", "true"], "`use_peft` trains a LoRA")):
        assert message in refused(*command(left, run, *more, "--resume_from_checkpoint", "auto"))


@pytest.mark.slow
def test_pickled_weights_are_read_if_they_are_trusted(agent, tmp_path, refused):
    folder, output = tmp_path / "pickled", tmp_path / "run"
    shutil.copytree(agent, folder)
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refused(*command(folder, output))
    assert "pytorch_model.bin" in message and "`model_init_kwargs` to {use_safetensors: false}" in message
    assert "pytorch_model.bin" in refused("evaluate", folder, "--examples", "2")
    assert main(command(folder, output, "--model_init_kwargs", '{"use_safetensors": false}')) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--report_to", "nothing"], "`report_to`"),
        (["--eval_on_start", "true"], "`eval_on_start` needs evaluations: set `eval_strategy`"),
        (["--save_strategy", "best"], "need `eval_strategy`"),
        (
            ["--save_strategy", "best", "--eval_strategy", "steps", "--metric_for_best_model", "bleu"],
            "`metric_for_best_model` must be loss",
        ),
        (["--activation_offloading", "true"], "`activation_offloading` needs a GPU"),
        (["--attn_implementation", "flex_attention"], "`attn_implementation` flex_attention needs a GPU"),
        (["--fsdp", "full_shard"], "`fsdp` needs several processes"),
        (["--deepspeed", '{"zero_optimization": {"stage": 2}}'], "`deepspeed` needs several processes"),
        (["--model_init_kwargs", "[1]"], "model_init_kwargs"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "`lr_scheduler_type`"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_settings_are_refused_before_the_model_is_loaded(agent, tmp_path, refused, more, message):
    (agent / "model.safetensors").rename(agent / "moved")  # whatever would read it fails in another way
    try:
        assert message in refused(*command(agent, tmp_path / "run", *more))
    finally:
        (agent / "moved").rename(agent / "model.safetensors")
