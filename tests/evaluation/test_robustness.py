"""One agent's numbers against decoding, sampling, full Jacobians and a grid search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.robustness import RobustnessSettings, evaluate_agent, nominal_success, success
from aajr_hf.training.batch import AgentBatch
from aajr_hf.training.data import encode_examples

from .tiny import ROWS, SMALL, TOKENIZER, trained


@pytest.fixture(scope="module")
def agent() -> LlamaForCausalLM:
    return trained()


def test_nominal_success_is_what_decoding_gives(agent):
    answered = 0
    for row in ROWS:
        prompt = TOKENIZER.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = agent.generate(**prompt, max_new_tokens=16, do_sample=False, eos_token_id=TOKENIZER.eos_token_id)
        text = TOKENIZER.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        answered += text == row["completion"][0]["content"]
    assert 0 < answered < len(ROWS)
    assert nominal_success(agent, TOKENIZER, ROWS) == pytest.approx(100 * answered / len(ROWS))


def test_sampled_success_is_the_probability_of_the_answer(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS[:1], candidates=True), "prompt")
    torch.manual_seed(0)
    logits = torch.randn(1, batch.action_labels.shape[1], len(TOKENIZER))
    logits.scatter_add_(2, batch.action_labels[..., None], torch.full_like(logits[..., :1], 8.0))
    _, probability = success(logits, batch)
    draws = torch.distributions.Categorical(logits=logits[0]).sample((20000,))
    frequency = (draws == batch.action_labels).all(dim=1).float().mean()
    assert 0.05 < probability.item() < 0.95
    assert probability.item() == pytest.approx(frequency.item(), abs=0.015)


def test_the_numbers_are_consistent_and_reproducible(agent):
    reported = []
    first = evaluate_agent(agent, TOKENIZER, ROWS, SMALL, lambda: reported.append(1))
    again = evaluate_agent(agent, TOKENIZER, ROWS, SMALL)
    assert first == again
    assert len(reported) == SMALL.progress_steps(len(ROWS)) == 8
    costs = [first["nominal_cost"], *(first["worst_case_cost"][m] for m in ("0.5", "1", "2"))]
    assert costs == sorted(costs) and costs[-1] > costs[0]
    assert first["worst_case_success"]["2"] <= first["nominal_success"]
    assert first["spectral_norm"] >= first["amplification"] > first["random_amplification"] > 0
    assert first["examples"] == len(ROWS)
    # As many examples at each point of the ascent, so that the mean of means is the mean.
    assert len(first["amplification_profile"]) == SMALL.ascent_steps
    assert sum(first["amplification_profile"]) / SMALL.ascent_steps == pytest.approx(first["amplification"])
    assert "attacks" not in first and "sanity" not in first


def test_further_attacks_change_no_number(agent):
    reported = []
    everything = replace(SMALL, attacks=("pga", "random", "transfer", "token"), token_trials=5, sanity=True)
    plain = evaluate_agent(agent, TOKENIZER, ROWS, SMALL)
    more = evaluate_agent(agent, TOKENIZER, ROWS, everything, lambda: reported.append(1), transfer_from=agent)
    assert {name: more[name] for name in plain} == plain
    assert len(reported) == everything.progress_steps(len(ROWS)) == 2 * (3 * 3 + 1 + 4)
    assert more.keys() - plain.keys() == {"attacks", "sanity"}
    assert evaluate_agent(agent, TOKENIZER, ROWS, everything, transfer_from=agent) == more


def test_the_profile_is_each_points_amplification(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS[:1], candidates=True), "prompt")
    numbers = evaluate_agent(agent, TOKENIZER, ROWS[:1], SMALL)
    target = Target(agent, batch)
    # Finite differences along the ascent, taken anew.
    delta, radius = target.origin.clone(), SMALL.train_epsilon * target.scale.item()
    for t in range(SMALL.ascent_steps):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(target.cost(delta).sum(), delta)
        gradient = gradient * batch.perturbable[..., None]
        direction, delta = gradient / gradient.norm(), delta.detach()
        change = (target.policy(delta + 1e-3 * direction) - target.policy(delta - 1e-3 * direction)) / 2e-3
        assert numbers["amplification_profile"][t] == pytest.approx(change.norm().item(), rel=1e-2)
        delta = delta + 2.5 * radius / SMALL.ascent_steps * direction
        delta = delta * min(1, radius / delta.norm().item())


def test_the_batch_size_does_not_matter_without_random_starts(agent):
    settings = [RobustnessSettings(attack_steps=3, attack_restarts=1, batch_size=size) for size in (2, 6)]
    one, other = (evaluate_agent(agent, TOKENIZER, ROWS, setting) for setting in settings)
    for name in ("nominal_success", "nominal_cost", "amplification", "embedding_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-3)


def test_the_spectral_norm_is_the_full_jacobians(agent):
    single = ROWS[:1]
    numbers = evaluate_agent(agent, TOKENIZER, single, SMALL)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, single, candidates=True), "prompt")
    eager = trained()
    eager.set_attn_implementation("eager")
    embeddings = eager.get_input_embeddings()(batch.input_ids).detach()

    def logits(x):
        return eager(inputs_embeds=x, use_cache=False).logits[0, batch.action_positions[0]]

    full = torch.func.jacfwd(logits)(embeddings)[:, :, 0][:, :, batch.perturbable[0]]
    expected = torch.linalg.svdvals(full.reshape(full.shape[0] * full.shape[1], -1))[0]
    assert numbers["spectral_norm"] == pytest.approx(expected.item(), rel=1e-3)
