"""Models that fit no single device, or are loaded with fewer bits: what is refused, and that numbers stay the same."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import dispatch_model

from aajr_hf.cli.main import main
from aajr_hf.evaluation import agents
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from tests.support.small_agents import ROWS, SMALL, TOKENIZER, trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device_map", "auto", "--num_processes", "2"], "`--device_map` spreads a model over all GPUs"),
        (
            ["--device_map", "auto", "--accelerate_config", "ddp"],
            "leave out `--num_processes` and `--accelerate_config`",
        ),
        (["--device_map", "gpu"], "argument --device_map: invalid choice: 'gpu'"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [["evaluate", "x"], ["simulate", "--model", "x"]], ids=lambda command: command[0])
def test_a_wrong_placement_is_one_line(command, options, message, refused):
    assert message in refused(*command, *options)


def test_options_without_effect_are_refused(refused):
    assert "`--surrogate` trains in float32" in refused("evaluate", "x", "--surrogate", "--dtype", "bfloat16")
    assert "`--surrogate` trains in float32" in refused("evaluate", "x", "--surrogate", "--device_map", "auto")
    assert "have no effect without a model" in refused("simulate", "--model", "scripted", "--dtype", "bfloat16")


@pytest.mark.slow
def test_a_model_is_loaded_as_the_options_say(agent, tmp_path, monkeypatch):
    seen = []
    load = agents.AutoModelForCausalLM.from_pretrained

    def spied(path, **options):
        seen.append((options["dtype"], options.get("device_map")))
        return load(path, **options)

    monkeypatch.setattr(agents.AutoModelForCausalLM, "from_pretrained", spied)
    short = ["--env", "congestion", "--attack_steps", "1", "--output", str(tmp_path)]
    options = ["--dtype", "bfloat16", "--device_map", "auto"]
    few = ["--examples", "3", "--multiples", "1", "--attacks", "nll"]
    assert main(["evaluate", str(agent), *few, *short, *options]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["dtype"] == "bfloat16"
    episode = ["--episodes", "1", "--steps", "1", "--attack", "nll"]
    assert main(["simulate", "--model", str(agent), *episode, *short, *options]) == 0
    assert json.loads((tmp_path / "episodes.jsonl").read_text())["dtype"] == "bfloat16"
    assert seen == [(torch.bfloat16, "auto")] * 2
    assert load_agent(str(agent))[0].dtype == torch.float32


@pytest.mark.slow
def test_a_model_in_parts_has_the_numbers_of_a_whole_one():
    """All measurements pass through the hooks that move tensors between the devices of the parts."""
    whole = evaluate_agent(trained(), TOKENIZER, ROWS, SMALL)
    model = trained()
    parts = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"), "cpu")
    parts["model.rotary_emb"] = "cpu"
    model = dispatch_model(model, parts, force_hooks=True)
    assert hasattr(model.model.layers[0], "_hf_hook")
    assert evaluate_agent(model, TOKENIZER, ROWS, SMALL) == whole
