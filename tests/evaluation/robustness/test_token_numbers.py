"""The attack `token` against prompts rewritten by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying

SETTINGS = replace(
    SMALL, power_iterations=2, batch_size=16, attacks=("nll", "token"), token_trials=100, multiples=(1.0,)
)


@pytest.mark.slow
def test_token_numbers_are_those_of_the_rewritten_prompts_and_the_radius_is_theirs():
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, SETTINGS)
    token, pga = numbers["token_attack"], numbers["token_attack"]["pga"]
    # It asks for the number that costs the system most: 3, or, where 3 is right, 0.
    rewritten = [row["prompt"][0]["content"].split() for row in COPYING_ROWS]
    for words in rewritten:
        words[1] = "0" if words[1] == "3" else "3"
    rows = [
        row | {"prompt": [{"role": "user", "content": " ".join(words)}]}
        for row, words in zip(COPYING_ROWS, rewritten, strict=True)
    ]
    batch, clean = (
        AgentBatch.from_inputs(encode_examples(COPYING_TOKENIZER, r, candidates=True), "prompt")
        for r in (rows, COPYING_ROWS)
    )
    asked, original = Target(copying(), batch), Target(copying(), clean)
    found = asked.outcome(asked.origin)
    assert token["cost"] == pytest.approx(float(found.cost.mean()), rel=1e-4)
    assert token["sampled_success"] == pytest.approx(100 * float(found.sampled.mean()), rel=1e-3)
    assert token["success"] == 0 and numbers["nominal_success"] == 100
    radii = (asked.state - original.state).flatten(1).norm(dim=1) / original.scale
    assert token["radius"] == pga["radius"] == pytest.approx(float(radii.mean()), rel=1e-4)
    assert torch.isfinite(radii).all()
    # So wide a ball holds the rewritten prompt, and the ascent finds something as bad.
    assert pga["success"] < 50 and pga["cost"] > numbers["nominal_cost"]
    # It is no attack within a ball.
    assert "token" not in numbers["attacks"]


@pytest.mark.slow
def test_it_changes_no_other_number():
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, SETTINGS)
    plain = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, replace(SETTINGS, attacks=("nll",)))
    assert {name: numbers[name] for name in plain} == plain
    assert numbers.keys() - plain.keys() == {"token_attack"}
