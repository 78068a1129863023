"""What a model card says of an evaluation: numbers with intervals, attacks and trust, and nothing of the old attack."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from aajr_hf.training.sharing.model_card import weights_digest, write_model_card
from tests.support.results import as_results, make_run, trust


@pytest.fixture
def evaluated(tmp_path):
    """A folder of a run, and `write(results) -> card` for an evaluation of it."""
    (tmp_path / "recipe.yaml").write_text(
        "model_name_or_path: someone/model\nenvironment: congestion\nlambda_mode: relative\n"
    )
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "worst_case.png").write_bytes(b"plot")

    def write(**changes):
        results = as_results({"mine": make_run(81.3, 72.6, (78.1, 74.7, 70.1)) | changes.pop("run", {})}, **changes)
        results["settings"] |= {"weights": {"mine": weights_digest(tmp_path)}}
        results = {field: value for field, value in results.items() if value is not None}
        (evaluation / "results.json").write_text(json.dumps(results))
        write_model_card(tmp_path, "me/mine")
        return ModelCard((tmp_path / "README.md").read_text())

    return write


def test_the_table_has_intervals_attacks_threat_model_and_trust(evaluated):
    card = evaluated()
    assert (
        "| | nominal | worst case, 0.25x radius (0.1) | worst case, 0.5x radius (0.2) | worst case, 1x radius (0.4) |"
        in card.text
    )
    assert "| success, greedy | 81.3 [79-84] | 78.1 [75-81] | 74.7 [72-77] | 70.1 [67-73] |" in card.text
    assert "| success, sampled | 72.6 [70-75] | 73.1 [70-76] | 69.7 [67-72] | 65.1 [62-68] |" in card.text
    assert "what none of these attacks breaks: margin, tempered nll." in card.text
    assert "Threat model: l2 ball over the whole prompt, radius 1x = 0.4 mean embedding norms." in card.text
    assert "The success under attack can be trusted: this agent passes all checks of the attack." in card.text
    assert "| `lambda_mode` | relative |" in card.text and "| `regularizer_lambda` |" in card.text
    assert "(evaluation/worst_case.png)" in card.text and "Amplification along the ascent" in card.text
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["success (nominal) %"] == 81.3 and values["success (worst case, 1x training radius) %"] == 70.1


def test_a_failed_check_and_a_token_attack_are_said(evaluated):
    token = {"success": 1.0, "sampled_success": 2.0, "radius": 1.0, "cost": 1.0}
    card = evaluated(run={"trust": trust(passed=False), "token_attack": token | {"pga": token}})
    assert 'Do not trust the success under attack of this agent, which fails the checks "random points' in card.text
    assert "margin, tempered nll, token substitutions." in card.text


@pytest.mark.parametrize(
    ("version", "words"),
    [(None, "measured by the old attack, which used only the expected cost"), (3, "of version 3")],
)
def test_numbers_of_another_version_are_left_out_and_it_says_so(evaluated, version, words):
    card = evaluated(version=version, threat_model=None)
    results = card.text.split("## Results")[1].split("## Training")[0]
    assert words in results and "run `aajr evaluate` again" in results
    assert "70.1" not in results and "worst case" not in results and ".png" not in results
    assert card.data.eval_results is None


def test_numbers_that_do_not_say_their_kind_yet_are_shown(evaluated):
    assert evaluated(kind=None).text == evaluated().text


@pytest.mark.parametrize(
    ("dataset", "datasets", "shown"),
    [
        ("data/rows.jsonl", None, "rows.jsonl"),
        ("/home/me/rows", None, "rows"),
        ("someone/rows", ["someone/rows"], "someone/rows"),
    ],
)
def test_the_metadata_name_only_data_on_the_hub_and_the_card_no_folder(tmp_path, dataset, datasets, shown):
    """The file may be on another machine, where the agent was trained."""
    (tmp_path / "recipe.yaml").write_text(f"dataset_name: {dataset}\n")
    (tmp_path / "adapter_config.json").write_text("{}")
    write_model_card(tmp_path, "me/mine")
    card = ModelCard((tmp_path / "README.md").read_text())
    assert card.data.get("datasets") == datasets
    assert f"| data | {shown} |" in card.text
    assert "is a local folder" not in card.text  # the base model is not known
