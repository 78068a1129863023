"""`aajr evaluate --surrogate`: a smoother copy of an agent is trained, kept and recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LilyConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.main import main
from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks import surrogate
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from tests.support.commands import FEW, SMALL
from tests.support.small_agents import untrained


@pytest.mark.slow
def test_a_surrogate_is_kept_recorded_and_can_be_loaded(agent, tmp_path, brief, capsys):
    report = tmp_path / "report"
    wide = untrained(tmp_path / "wide", "congestion", width=64)
    few = [*SMALL, *FEW, "--multiples", "1"]
    output = ["--surrogate", "--output", str(report)]
    assert main(["evaluate", f"mine={agent}", f"small={wide}", *few, *output]) == 0
    printed = capsys.readouterr()
    results = json.loads((report / "results.json").read_text())
    assert results["settings"]["transfer_from"] == ["surrogate of mine", "surrogate of small"]
    for name, path in (("mine", agent), ("small", wide)):
        run, folder = results["runs"][name], report / "surrogates" / name
        assert run["transferred_from"] == [f"surrogate of {name}"] and "from_others" in run["attacks"]
        (model, _), (original, _) = load_agent(str(folder)), load_agent(str(path))
        # Its perturbations are of the agent's own embeddings, and the rest is not the agent's.
        assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
        assert not torch.equal(model.lm_head.weight, original.lm_head.weight)
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert (recipe["output_dir"], recipe["model_name_or_path"]) == (str(folder), str(path))
        assert f"Making a surrogate of {name} in {folder}" in printed.err
    assert sorted(path.name for path in (report / "surrogates").iterdir()) == ["mine", "small"]
    # No word of the training itself.
    assert "loss" not in printed.err and "'train_runtime'" not in printed.out and "Map" not in printed.err
    # Another time it is replaced, and is a source like any other.
    before = (report / "surrogates" / "mine" / "model.safetensors").stat().st_ino
    assert main(["evaluate", f"mine={agent}", *few, *output]) == 0
    assert (report / "surrogates" / "mine" / "model.safetensors").stat().st_ino != before
    source = str(report / "surrogates" / "mine")
    assert main(["evaluate", str(agent), *few, "--transfer_from", source, "--output", str(tmp_path / "next")]) == 0
    run = json.loads((tmp_path / "next" / "results.json").read_text())["runs"]["base"]
    assert run["transferred_from"] == [source]


@pytest.mark.slow
def test_the_surrogate_of_an_adapter_that_cannot_be_merged_is_saved_whole(agent, tmp_path, brief):
    folder = tmp_path / "lily"
    lily = LilyConfig(r=2, stride_A=1, num_B=2, target_modules=["q_proj"], init_weights=False, scaling=20)
    get_peft_model(AutoModelForCausalLM.from_pretrained(agent), lily).save_pretrained(folder)
    AutoTokenizer.from_pretrained(agent).save_pretrained(folder)
    original = load_agent(str(folder))
    threat = ThreatModel(0.1, "absolute", "linf", "token", "observation")
    rows = expert_rows("congestion", 64, seed=0)
    made, tokenizer = surrogate.make_surrogate(*original, rows, threat, tmp_path / "surrogate")
    loaded, _ = load_agent(str(tmp_path / "surrogate"))
    ids = tokenizer("capacity 3", return_tensors="pt").input_ids
    logits = [model(ids).logits for model in (made, loaded, original[0])]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert not any(parameter.requires_grad for parameter in original[0].parameters())


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_a_surrogate_that_is_not_finished_is_not_there(error, agent, tmp_path, brief, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["evaluate", f"mine={agent}", *SMALL, "--surrogate", "--output", "new/report"]

    def fail(self, *_, **__):
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(self.args.output_dir) / "config.json").write_text("{}")
        raise error("broken")

    with monkeypatch.context() as patch:
        patch.setattr(surrogate.AAJRTrainer, "save_final", fail)
        assert main(asked) == {KeyboardInterrupt: 130, FloatingPointError: 1}[error]
        assert "Traceback" not in (printed := capsys.readouterr().err)
        if error is FloatingPointError:
            assert "the training of the surrogate of mine diverges: leave `--surrogate` out." in printed
        assert not list(tmp_path.iterdir())
        # What was there before stays.
        old = Path("new/report/surrogates/mine")
        old.mkdir(parents=True)
        (old / "config.json").write_text("before")
        assert main(asked) != 0
        assert [path.name for path in old.parent.iterdir()] == ["mine"]
        assert (old / "config.json").read_text() == "before"


def test_a_surrogate_replaces_no_model_and_stays_in_its_folder(agent, tmp_path, refused):
    place = tmp_path / "report" / "surrogates" / "mine"
    shutil.copytree(agent, place)
    asked = ["--surrogate", "--output", tmp_path / "report"]
    assert "`--surrogate` would replace" in refused("evaluate", place, *asked)
    assert "`--surrogate` would replace" in refused("evaluate", f"mine={agent}", "--transfer_from", place, *asked)
    for name in ("../mine", "a/b", "..", ""):
        assert f"`--surrogate`: {name!r} is not a valid folder name" in refused("evaluate", f"{name}={agent}", *asked)
