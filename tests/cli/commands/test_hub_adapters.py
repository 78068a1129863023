"""An adapter on the Hub as `model_name_or_path`: trained on as one in a folder is, and found again without a network."""

from __future__ import annotations

import json

import pytest

from tests.support import ROOT
from tests.support.commands import FAST
from tests.support.hub_server import Repo

RECIPE = str(ROOT / "recipes" / "congestion" / "sft.yaml")
SETTINGS = ["--config", RECIPE, *FAST]


@pytest.fixture(scope="module")
def name(worker, agent, tmp_path_factory):
    """The name of a LoRA on the Hub, beside a checkpoint that nobody needs."""
    folder = tmp_path_factory.mktemp("trained") / "lora"
    lora = ["--adapter", "lora", "--adapter_rank", "2", "--learning_rate", "0.01"]
    done = worker.run(["train", *SETTINGS, "--model_name_or_path", agent, "--output_dir", folder, *lora])
    assert done.status == 0, done.err
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files["checkpoint-1/adapter_model.safetensors"] = b"old"
    worker.hub.repos["tester/lora"] = Repo(False, ["first"], files)
    return "tester/lora"


OFFLINE = """
import huggingface_hub.constants as constants
from aajr_hf.cli.main import main
constants.HF_HUB_OFFLINE = True
try:
    result = main({command!r})
finally:
    constants.HF_HUB_OFFLINE = False
"""


@pytest.mark.slow
def test_training_goes_on_with_it(worker, name, agent, tmp_path):
    worker.hub.requests.clear()
    command = ["train", *SETTINGS, "--model_name_or_path", name, "--output_dir", str(tmp_path / "more")]
    done = worker.run([*command, "--model_revision", "v2"])
    assert done.status == 0 and "Trained: lora" in done.out, done.err
    asked = [request for request in worker.hub.requests if f"/{name}/resolve/" in request]
    assert any(request.endswith("/resolve/v2/adapter_config.json") for request in asked)
    assert not any("/resolve/main/" in request or "checkpoint-1" in request for request in asked)
    config = json.loads((tmp_path / "more" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(agent) and config["r"] == 2
    assert f"model_name_or_path: {name}\n" in (tmp_path / "more" / "recipe.yaml").read_text()

    wrong = worker.run([*command, "--adapter", "lora", "--adapter_rank", "4", "--overwrite", "true"])
    assert wrong.status == 2 and "`adapter_rank` is 4, but the adapter that was saved has r = 2" in wrong.err

    worker.run([*command, "--overwrite", "true"])  # so that the branch is known
    again = worker.run(OFFLINE.format(command=[*command, "--overwrite", "true"]))
    assert (again.status, again.result) == (0, 0) and "Trained: lora" in again.out, again.err


@pytest.mark.slow
def test_its_tokenizer_is_inspected(worker, name):
    done = worker.run(["inspect", "--config", RECIPE, "--model_name_or_path", name, "--environment_examples", "4"])
    assert done.status == 0 and "Example 0" in done.out, done.err


@pytest.mark.slow
def test_an_unknown_name_is_one_line(worker, tmp_path):
    done = worker.run(
        ["train", *SETTINGS, "--model_name_or_path", "tester/nothing", "--output_dir", str(tmp_path / "out")]
    )
    assert done.status == 2 and "tester/nothing" in done.err and not (tmp_path / "out").exists()
