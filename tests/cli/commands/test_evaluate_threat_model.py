"""`aajr evaluate`: the threat model comes from the recipes, or from options."""

from __future__ import annotations

import json

import pytest

from aajr_hf.cli.commands import evaluate as evaluate_command
from aajr_hf.cli.main import main
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.robustness import evaluate as robustness
from tests.support.commands import SMALL, fails, with_recipe


@pytest.fixture
def threat(monkeypatch):
    """`threat(arguments...)`: the threat model with which the command would measure."""
    found = []

    def unmeasured(models, arguments, world):
        found.append(evaluate_command.settings_of(arguments, models.values()).threat)

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate_command, "evaluate", unmeasured)
            assert main(["evaluate", *map(str, arguments)]) == 0
        return found[-1]

    return run


TRAINED = {"epsilon": 0.5, "epsilon_mode": "absolute", "perturbation_norm": "linf", "perturbation_scope": "token"}


def test_the_threat_model_is_that_of_the_recipes(agent, tmp_path, threat):
    one = with_recipe(agent, tmp_path / "one", **TRAINED, perturbed_tokens="observation")
    two = with_recipe(agent, tmp_path / "two", **TRAINED, perturbed_tokens="observation", learning_rate=0.1)
    trained = ThreatModel(0.5, "absolute", "linf", "token", "observation")
    assert threat(one) == trained
    # A base agent says nothing, and neither does one that was trained without an adversary.
    sft = with_recipe(agent, tmp_path / "sft", epsilon=0.0, regularizer_lambda=0.0, perturbed_tokens="all")
    assert threat(agent, one, two, sft) == trained
    assert threat(sft) == ThreatModel()
    # A recipe's field that is not there has the trainer's default, and is as good as one that is.
    wide = with_recipe(agent, tmp_path / "wide", epsilon=0.75)
    assert threat(wide) == ThreatModel(epsilon=0.75)
    options = ["--epsilon", "0.1", "--perturbation_norm", "l2", "--perturbed_tokens", "user"]
    assert threat(one, *options) == ThreatModel(0.1, "absolute", "l2", "token", "user")
    # GRPO's own epsilon is another one.
    grpo = with_recipe(agent, tmp_path / "grpo", trainer="AAJRGRPOTrainer", epsilon=0.2, perturbation_epsilon=0.3)
    assert threat(grpo) == ThreatModel(epsilon=0.3)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("epsilon", 0.5, "0.25 ({one}), 0.5 ({two})"),
        ("epsilon_mode", "absolute", "relative ({one}), absolute ({two})"),
        ("perturbation_norm", "linf", "l2 ({one}), linf ({two})"),
        ("perturbation_scope", "token", "sequence ({one}), token ({two})"),
        ("perturbed_tokens", "observation", "prompt ({one}), observation ({two})"),
    ],
)
def test_recipes_that_disagree_are_refused_by_field(field, value, shown, agent, tmp_path, refused, threat):
    one = with_recipe(agent, tmp_path / "one", epsilon=0.25)
    two = with_recipe(agent, tmp_path / "two", **{"epsilon": 0.25, field: value})
    message = refused("evaluate", one, two)
    assert f"`{field}`: the agents were trained against different adversaries" in message
    assert shown.format(one=one, two=two) in message and f"with `--{field}`" in message
    assert getattr(threat(one, two, f"--{field}", value), field) == value


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("epsilon: wide", "`epsilon` must be a finite number of at least 0; got 'wide'"),
        ("epsilon: .inf", "`epsilon` must be a finite number of at least 0; got inf"),
        ("epsilon: [1]", "`epsilon` must be a finite number of at least 0; got [1]"),
        ("epsilon: -1", "`epsilon` must be a finite number of at least 0; got -1"),
        ("perturbation_norm: l3", "`perturbation_norm` must be one of l2, linf; got 'l3'"),
        ("perturbed_tokens: [prompt]", "`perturbed_tokens` must be one of prompt, observation"),
        ("epsilon: [", "cannot be read"),
        ("- 1", "is not a mapping"),
    ],
)
def test_a_recipe_without_a_threat_model_in_it_is_one_line(recipe, message, copied, unmeasured, refused):
    (copied / "recipe.yaml").write_text(recipe + "\n")
    error = refused("evaluate", copied)
    assert "copied/recipe.yaml" in error and message in error


@pytest.mark.slow
def test_the_tokens_of_the_recipe_are_the_ones_that_move(agent, tmp_path, monkeypatch, capsys):
    moved = []
    target = robustness.Target

    def watched(model, batch, threat, temperature):
        moved.append((threat.perturbed_tokens, batch.perturbable.sum().item()))
        return target(model, batch, threat, temperature)

    monkeypatch.setattr(robustness, "Target", watched)
    counts = {}
    for tokens in ("prompt", "observation", "all"):
        folder = with_recipe(agent, tmp_path / tokens, perturbed_tokens=tokens)
        moved.clear()
        output = ["--attacks", "nll", "--multiples", "1", "--output", str(tmp_path / "report")]
        assert main(["evaluate", folder, *SMALL, *output]) == 0
        recorded = json.loads((tmp_path / "report" / "results.json").read_text())["threat_model"]
        assert {said for said, _ in moved} == {tokens} == {recorded["perturbed_tokens"]}
        counts[tokens] = sum(number for _, number in moved)
    assert 0 < counts["observation"] < counts["prompt"] < counts["all"]
    # What no observation of a world has.
    folder = with_recipe(agent, tmp_path / "tool", perturbed_tokens="tool")
    capsys.readouterr()
    output = ["--surrogate", "--output", str(tmp_path / "none")]
    message = fails(capsys, "evaluate", f"mine={folder}", *SMALL, *output)
    assert "mine: Example 0 has no perturbable token" in message and "set `perturbed_tokens` to prompt" in message
    assert not (tmp_path / "none").exists()
