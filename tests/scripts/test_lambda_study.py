"""scripts/lambda_study.py: its settings are recipes' and fields', and its page has a table for each base agent."""

from __future__ import annotations

import json

import lambda_study
import pytest
import torch
from lambda_study import FEW, FEW_OF_MODEL, NATS, SETTINGS, TUNED, base_agent, page, radius, setups

from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.config.sft import AAJRConfig


def run(setup, name, worst):
    shares = {
        "attacks": {"nll": {}, "margin": {}},
        "nominal_success": 95.0,
        "sampled_success": 90.0,
        "amplification": 10.0,
        "train_seconds": 60.0,
    }
    return shares | {
        "setup": setup,
        "setting": name,
        "seed": 0,
        "worst_case_success": {"0.5": 90.0, "1": worst},
        "sampled_worst_case_success": {"0.5": 80.0, "1": worst - 5},
    }


def test_settings_are_fields_of_the_configuration():
    assert {*FEW, *FEW_OF_MODEL} <= {*SETTINGS, NATS}
    for name, (recipe, fields) in SETTINGS.items():
        assert (lambda_study.ROOT / "recipes" / "congestion" / f"{recipe}.yaml").is_file()
        assert all(hasattr(AAJRConfig, field) for field in fields)
        assert ("relative" in name) == (fields.get("lambda_mode") == "relative")


def test_the_base_agents_are_there(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(lambda_study, "train_with", lambda recipe, folder, fields: trained.append((folder, recipe)))
    congestion, *seeds, hiders, model = setups(["congestion", "hide_and_seek"], tmp_path / "model", tmp_path)
    assert [setup.seed for setup in seeds] == [1, 2, 3, 4, 5] and len({setup.table for setup in seeds}) == 1
    assert len({setup.name for setup in seeds}) == 5 and set(seeds[0].settings) < set(SETTINGS)
    assert congestion.base.is_dir() and hiders.base.is_dir() and hiders.fields == {"environment": "hide_and_seek"}
    assert congestion.settings == list(SETTINGS) and set(hiders.settings) < {*SETTINGS, NATS}
    # The language model learns the world first, and is attacked with less.
    assert [(folder, recipe.is_file()) for folder, recipe in trained] == [(model.base, True)]
    model.train(tmp_path, "AAJR, relative 0.03")
    assert trained[-1][1] == model.recipes / "aajr.yaml" and model.examples < congestion.examples


def test_a_lambda_in_nats_of_the_first_batches_is_the_tuned_one_for_the_base_agent_of_congestion(
    tmp_path, monkeypatch
):
    penalties = {"congestion": 400.0, "hide_and_seek": 100.0}
    trained = {}

    def train(recipe, folder, fields):
        folder.mkdir(parents=True)
        trained[folder.name] = fields
        log = [{"aajr/penalty": penalties[fields["environment"]]}, {"train_runtime": 1.0}]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))

    monkeypatch.setattr(lambda_study, "train_with", train)
    base_agent("congestion", "same", 0, []).train(tmp_path / "1", NATS)
    at_first = trained["at-first-logits"]
    assert at_first["learning_rate"] == 0 and at_first["lambda_mode"] == "absolute"
    assert trained["AAJR--nats-at-first"]["regularizer_lambda"] == TUNED
    base_agent("hide_and_seek", "other", 0, []).train(tmp_path / "2", NATS)
    assert trained["AAJR--nats-at-first"]["regularizer_lambda"] == pytest.approx(4 * TUNED)


def test_a_radius_is_in_the_unit_of_the_embeddings_that_move():
    setup = base_agent("congestion", "congestion", 0, [])
    model, tokenizer = load_agent(str(setup.base))
    rows = held_out_rows("congestion", 128, seed=0)
    batch = read_batch(tokenizer, rows, "prompt", model.device)
    norms = model.get_input_embeddings()(batch.input_ids).norm(dim=-1)
    expected = torch.stack([row[moves].mean() for row, moves in zip(norms, batch.perturbable, strict=True)]).mean()
    assert radius(setup) == pytest.approx(0.25 * expected.item(), rel=1e-5)


def test_the_page_says_what_a_lambda_would_multiply():
    sizes = [
        {"setup": "congestion", "radius": 0.5, "penalty_at_first": dict.fromkeys(lambda_study.OUTPUTS, 400.0)},
        {"setup": "smollm2-135m", "radius": 1.0, "penalty_at_first": dict.fromkeys(lambda_study.OUTPUTS, 800.0)},
    ]
    text = page([run("congestion", "AAJR, relative 0.03", 70.0), *sizes])
    assert "| penalty | congestion | smollm2-135m |" in text
    assert "| logits | 400 (1) | 800 (2) |" in text
    assert "| logits, times the radius squared | 100 (1) | 800 (8) |" in text
