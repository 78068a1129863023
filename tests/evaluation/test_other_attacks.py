"""Attacks beside PGA: transfer against PGA itself, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.means import Means
from aajr_hf.evaluation.other_attacks import OtherAttacks, check_transfer
from aajr_hf.evaluation.robustness import evaluate_agent
from aajr_hf.training.batch import AgentBatch
from aajr_hf.training.data import encode_examples

from .tiny import COPYING_ROWS, COPYING_TOKENIZER, ROWS, SMALL, TOKENIZER, copying, model

TRANSFER = replace(SMALL, power_iterations=2, multiples=(2.0,), batch_size=16, attacks=("pga", "transfer"))


def test_transfer_from_itself_is_pga():
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, TRANSFER, transfer_from=copying())
    transfer = numbers["attacks"]["transfer"]
    assert transfer["success"] == numbers["worst_case_success"]
    assert transfer["sampled_success"] == numbers["sampled_worst_case_success"]
    assert transfer["cost"] == numbers["worst_case_cost"]
    assert transfer["cost"]["2"] > numbers["nominal_cost"]


def test_transfer_from_another_model_is_weaker_and_leaves_no_gradients():
    stranger = model(COPYING_TOKENIZER, seed=5)
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, TRANSFER, transfer_from=stranger)
    assert numbers["attacks"]["transfer"]["cost"]["2"] < numbers["worst_case_cost"]["2"]
    assert all(p.grad is None and p.requires_grad for p in stranger.parameters())


def test_a_transferred_radius_is_one_in_the_targets_norms():
    source = model(COPYING_TOKENIZER, seed=5)
    source.get_input_embeddings().weight.data *= 3
    batch = AgentBatch.from_inputs(encode_examples(COPYING_TOKENIZER, COPYING_ROWS, candidates=True), "prompt")
    target = Target(copying(), batch)
    delta = OtherAttacks(TRANSFER, Means(), lambda: None, source)._transfer(target, 0.5)
    assert (delta.flatten(1).norm(dim=1) / target.scale).tolist() == pytest.approx([0.5] * len(batch), rel=1e-4)
    assert (delta[~batch.perturbable] == 0).all()


def test_transfer_needs_a_model_with_the_same_tokens_and_width():
    agent = (model(), TOKENIZER)
    check_transfer((model(seed=1), TOKENIZER), agent, ROWS)
    with pytest.raises(ValueError, match="its embeddings have 32 numbers, those of the attacked model 16"):
        check_transfer((model(width=32), TOKENIZER), agent, ROWS)
    with pytest.raises(ValueError, match="other tokens"):
        check_transfer((model(COPYING_TOKENIZER), COPYING_TOKENIZER), agent, ROWS)
    with pytest.raises(ValueError, match="`transfer` needs a model"):
        evaluate_agent(*agent, ROWS, TRANSFER)


def test_token_numbers_are_those_of_the_rewritten_prompts_and_the_radius_is_theirs():
    settings = replace(SMALL, power_iterations=2, batch_size=16, attacks=("pga", "token"), token_trials=100)
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, settings)
    token, pga = numbers["attacks"]["token"], numbers["attacks"]["pga_at_token_radius"]
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
    assert token["cost"] == pytest.approx(float(asked.outcome(asked.origin).cost.mean()), rel=1e-4)
    assert token["success"] == 0 and numbers["nominal_success"] == 100
    radii = (asked.state - original.state).flatten(1).norm(dim=1) / original.scale
    assert token["radius"] == pga["radius"] == pytest.approx(float(radii.mean()), rel=1e-4)
    assert torch.isfinite(radii).all() and pga["cost"] > numbers["nominal_cost"]


def test_the_checks_attack_with_a_quarter_of_the_steps_and_with_room_for_any_other_prompt(monkeypatch):
    made = []

    def recorded(loss_fn, state, ball, *, mask, steps, restarts):
        made.append((steps, restarts, ball.epsilon))
        return torch.zeros_like(state), None

    monkeypatch.setattr("aajr_hf.evaluation.other_attacks.worst_case", recorded)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    target = Target(model(), batch)
    settings = replace(SMALL, attack_steps=20, multiples=(0.5, 4.0, 1.0), sanity=True)
    OtherAttacks(settings, Means(), lambda: None, None).measure(target, None)
    quarter, unbounded = made
    assert quarter[:2] == (5, 2) and unbounded[:2] == (20, 2)
    assert torch.equal(quarter[2], 4 * settings.train_epsilon * target.scale)
    # From each prompt to the farthest that the batch's tokens can make of it, position by position.
    tokens = target.state[batch.perturbable]
    for row, radius in enumerate(unbounded[2]):
        farthest = torch.cdist(target.state[row][batch.perturbable[row]], tokens).max(dim=1).values
        assert farthest.norm() <= radius <= 4 * farthest.norm()
