"""`aajr train` into a folder that already holds a run."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.cli.main import main
from aajr_hf.evaluation.agents import load_agent
from tests.support import ROOT
from tests.support.commands import FAST, snapshot

RECIPE = str(ROOT / "recipes" / "congestion" / "sft.yaml")
LORA = ["--adapter", "lora", "--adapter_rank", "2"]


def train(agent, output, *more):
    where = ["--model_name_or_path", str(agent), "--output_dir", str(output)]
    return main(["train", "--config", RECIPE, *where, *FAST, "--overwrite", "true", *more])


@pytest.mark.slow
@pytest.mark.parametrize("first", [LORA, []], ids=["adapter-then-weights", "weights-then-adapter"])
def test_a_new_run_replaces_the_old_model_and_nothing_else(agent, tmp_path, first):
    second, output, fresh = ([] if first else LORA), tmp_path / "run", tmp_path / "fresh"
    assert train(agent, output, *first) == train(agent, fresh, *second) == 0
    (output / "_nonfinite-1").mkdir()
    (output / "model-00001-of-00002.safetensors").write_text("an old shard")
    users = dict.fromkeys(("notes.md", "model-best.safetensors", "checkpoint-list.txt", "my/config.json"), b"mine")
    for name, content in users.items():
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(content)
    assert train(agent, output, *second) == 0
    left = snapshot(output)
    assert {name: left.get(name) for name in users} == users
    assert left.keys() - users.keys() - {"my"} == snapshot(fresh).keys()
    weights = [load_agent(str(folder))[0].state_dict() for folder in (output, fresh)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_the_model_that_an_adapter_is_trained_on_stays(agent, tmp_path):
    output = tmp_path / "run"
    assert train(agent, output) == 0
    before = (output / "model.safetensors").read_bytes()
    assert train(output, output, *LORA) == 0
    assert (output / "model.safetensors").read_bytes() == before
    assert load_agent(str(output))[0].num_parameters() > 1e6
