"""The checks of the attack: on numbers, on an ordinary agent, and on one that hides its gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.robustness import evaluate_agent
from aajr_hf.evaluation.sanity import sanity_rules

from .tiny import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying

RULES = {
    "radius": "a larger radius leaves no more success",
    "steps": "more steps leave no more success",
    "unbounded": "an attack without a bound leaves no success",
    "random": "PGA leaves no more success than random points",
    "transfer": "PGA leaves no more success than perturbations made on another model",
    "token": "PGA leaves no more success than token substitutions within their radii",
}
EVERYTHING = replace(
    SMALL,
    power_iterations=2,
    batch_size=16,
    attacks=("pga", "random", "token"),
    sanity=True,
    attack_steps=12,
    attack_restarts=1,
)


@pytest.fixture
def run():
    """Fifty examples: one of them is 2 %."""
    return {
        "examples": 50,
        "nominal_success": 98.0,
        "worst_case_success": {"10": 20.0, "0.5": 90.0, "2": 60.0},
        "attacks": {
            "pga_quarter_steps": {"success": {"10": 30.0}},
            "pga_unbounded": {"success": 0.0},
            "random": {"success": {"0.5": 96.0, "2": 94.0, "10": 90.0}},
            "transfer": {"success": {"0.5": 92.0, "2": 88.0, "10": 70.0}},
            "token": {"success": 10.0},
            "pga_at_token_radius": {"success": 4.0},
        },
    }


def failed(run):
    return {rule["rule"] for rule in sanity_rules(run) if not rule["passed"]}


def test_an_attack_that_behaves_passes_every_rule(run):
    rules = sanity_rules(run)
    assert [rule["rule"] for rule in rules] == list(RULES.values()) and all(rule["passed"] is True for rule in rules)
    details = {rule["rule"]: rule["detail"] for rule in rules}
    assert details[RULES["radius"]] == "without attack 98.0 %, at 0.5x 90.0 %, at 2x 60.0 %, at 10x 20.0 %"
    assert "random points at 2x 94.0 %, PGA at 2x 60.0 %" in details[RULES["random"]]
    assert details[RULES["token"]] == "token substitutions 10.0 %, PGA within their radii 4.0 %"


@pytest.mark.parametrize(
    ("name", "path", "limit"),
    [
        ("radius", ("worst_case_success", "0.5"), 98.0),
        ("radius", ("nominal_success",), 90.0),
        ("radius", ("worst_case_success", "10"), 60.0),
        ("steps", ("attacks", "pga_quarter_steps", "success", "10"), 20.0),
        ("unbounded", ("attacks", "pga_unbounded", "success"), 0.0),
        ("random", ("attacks", "random", "success", "2"), 60.0),
        ("transfer", ("attacks", "transfer", "success", "10"), 20.0),
        ("token", ("attacks", "token", "success"), 4.0),
        ("token", ("attacks", "pga_at_token_radius", "success"), 10.0),
    ],
)
def test_one_example_is_tolerated_and_two_are_not(run, name, path, limit):
    # Numbers of the stronger attack may exceed the limit; those of the weaker one may fall below it.
    stronger = path[0] == "worst_case_success" or path[1:2] in (("pga_unbounded",), ("pga_at_token_radius",))
    for examples, fails in ((0, False), (1, False), (2, True)):
        changed = copy.deepcopy(run)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = limit + 2.0 * examples * (1 if stronger else -1)
        assert (RULES[name] in failed(changed)) is fails


def test_attacks_that_were_not_made_are_not_judged(run):
    del run["attacks"]["pga_unbounded"], run["attacks"]["pga_quarter_steps"], run["attacks"]["transfer"]
    assert [rule["rule"] for rule in sanity_rules(run)] == [RULES["random"], RULES["token"]]
    del run["attacks"]
    assert sanity_rules(run) == []


def test_an_ordinary_agent_passes_and_one_that_hides_its_gradients_fails():
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, EVERYTHING)
    assert [rule["rule"] for rule in numbers["sanity"] if not rule["passed"]] == []
    assert len(numbers["sanity"]) == 5

    masked = copy.deepcopy(copying())
    grid = 1e-3

    def rounded(module, args, kwargs):
        """The embeddings on a grid so fine that no answer changes: rounding has the derivative 0."""
        if args:
            return (torch.round(args[0] / grid) * grid, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": torch.round(kwargs["hidden_states"] / grid) * grid}

    masked.model.layers[0].register_forward_pre_hook(rounded, with_kwargs=True)
    hidden = evaluate_agent(masked, COPYING_TOKENIZER, COPYING_ROWS, EVERYTHING)
    # It looks robust, and is not.
    assert hidden["nominal_success"] == numbers["nominal_success"] == 100
    assert all(success == 100 for success in hidden["worst_case_success"].values())
    assert numbers["worst_case_success"]["2"] < 100 and hidden["attacks"]["token"]["success"] == 0
    broken = {rule["rule"] for rule in hidden["sanity"] if not rule["passed"]}
    assert {RULES["token"], RULES["unbounded"]} <= broken
