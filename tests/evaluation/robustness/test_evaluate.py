"""Agents' numbers against decoding, sampling, full Jacobians and other ways to the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import LlamaForCausalLM

from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.target import Target, success
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.evaluate import (
    evaluate_agent,
    evaluate_agents,
    nominal_success,
    progress_steps,
)
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from tests.support.known_policies import Visited
from tests.support.matrices import largest_singular_value
from tests.support.several_agents import SEVERAL, agents_and_sources, without_rules
from tests.support.short_amplification import make_rough
from tests.support.small_agents import (
    COPYING_ROWS,
    COPYING_TOKENIZER,
    PRECISE,
    ROWS,
    SMALL,
    TOKENIZER,
    copying,
    trained,
)


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
    # Of batches of unequal size, too.
    for size in (128, 5):
        assert nominal_success(agent, TOKENIZER, ROWS, size) == pytest.approx(100 * answered / len(ROWS))


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


@pytest.mark.slow
def test_the_numbers_are_consistent_and_reproducible(agent):
    reported = []
    agent.zero_grad()  # of its training
    before = [parameter.requires_grad for parameter in agent.parameters()]
    small = replace(SMALL, attack_steps=2, attack_restarts=1)
    first = evaluate_agent(agent, TOKENIZER, ROWS, small, lambda: reported.append(1))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    again = evaluate_agent(agent, TOKENIZER, ROWS, small)
    torch.set_rng_state(state)
    assert first == again
    assert len(reported) == progress_steps(small, len(ROWS)) == 2 * (3 + 1) + 1
    assert first["nominal_cost"] <= first["worst_case_cost"]["0.5"]
    for name, fall in (("worst_case_success", True), ("sampled_worst_case_success", True), ("worst_case_cost", False)):
        values = [first[name][m] for m in ("0.5", "1", "1.5")]
        assert values == sorted(values, reverse=fall) and values[0] != values[-1], name
    assert first["worst_case_success"]["0.5"] <= first["nominal_success"]
    assert first["sampled_worst_case_success"]["0.5"] <= first["sampled_success"]
    assert first["spectral_norm"] >= first["amplification"] > first["random_amplification"] > 0
    assert first["examples"] == len(ROWS)
    # As many examples at each point of the ascent, so that the mean of means is the mean.
    assert len(first["amplification_profile"]) == SMALL.ascent_steps
    assert sum(first["amplification_profile"]) / SMALL.ascent_steps == pytest.approx(first["amplification"])
    for name, outcomes in first["outcomes"].items():
        of = first[name] if isinstance(outcomes, dict) else {"": first[name]}
        for multiple, values in (outcomes if isinstance(outcomes, dict) else {"": outcomes}).items():
            assert 100 * sum(values) / len(ROWS) == pytest.approx(of[multiple]) and len(values) == len(ROWS)
    assert first["transferred_from"] == [] and first["gradients"] > 0
    assert not {"transferred", "from_others", "token"} & first["attacks"].keys()
    assert all(parameter.grad is None for parameter in agent.parameters())
    assert all(before) and [parameter.requires_grad for parameter in agent.parameters()] == before
    assert not agent.get_input_embeddings()._forward_hooks


@pytest.mark.slow
def test_outcomes_are_in_the_order_of_the_rows(agent):
    """Each row's by itself, with attacks that draw nothing."""
    settings = replace(SMALL, attacks=("nll", "margin"), attack_restarts=1, power_iterations=2)
    agent = copy.deepcopy(agent).double()
    whole = evaluate_agent(agent, TOKENIZER, ROWS, settings)["outcomes"]
    turned = evaluate_agent(agent, TOKENIZER, ROWS[::-1], settings)["outcomes"]
    for name in whole:
        for multiple in settings.multiples if "worst" in name else (None,):
            one, other = (o[name] if multiple is None else o[name][f"{multiple:g}"] for o in (whole, turned))
            assert one == pytest.approx(other[::-1], rel=1e-6) and len(set(one)) > 1
    for number in (1, 4):
        alone = evaluate_agent(agent, TOKENIZER, [ROWS[number]], settings)["outcomes"]
        for multiple in ("0.5", "1", "1.5"):
            assert alone["worst_case_success"][multiple] == [whole["worst_case_success"][multiple][number]]


# Several agents.


# Threat models.


@pytest.mark.slow
@pytest.mark.parametrize(
    "threat",
    [
        ThreatModel(epsilon=0.3),
        ThreatModel(epsilon=0.05, perturbation_norm="linf", perturbed_tokens="observation"),
        ThreatModel(epsilon=0.2, perturbation_scope="token", epsilon_mode="absolute"),
    ],
    ids=lambda threat: (
        f"{threat.perturbation_norm}-{threat.perturbation_scope}-{threat.perturbed_tokens}-{threat.epsilon_mode}"
    ),
)
def test_every_visited_perturbation_is_one_of_the_threat_model(threat, monkeypatch):
    visited = Visited(monkeypatch)
    make_rough(monkeypatch)
    settings = replace(SEVERAL, threat=threat, multiples=(1.0, 0.5), attack_steps=2, attack_restarts=1)
    # Not those of the rules, which go beyond the ball.
    monkeypatch.setattr(
        "aajr_hf.evaluation.robustness.evaluate.measure_trust",
        lambda target, multiple: {"steps": {"5": 0}, "unbounded": 0, "vanished": 0, "tried": 1, "examples": 1},
    )
    agents, _ = agents_and_sources()
    evaluate_agents(agents, COPYING_ROWS[::2], settings)
    widest, moved_by_id, order = 0.0, set(), 2 if threat.perturbation_norm == "l2" else float("inf")
    markup = set(COPYING_TOKENIZER.all_special_ids) | {
        COPYING_TOKENIZER.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>")
    }
    seen_multiples = set()
    for search, delta, rows in visited.points:
        batch, target = search.target.batch.select(rows), search.target
        norms = target.state[rows].norm(dim=-1)
        unit = (norms * batch.perturbable).sum(dim=1) / batch.perturbable.sum(dim=1)
        unit = torch.ones_like(unit) if threat.epsilon_mode == "absolute" else unit
        sizes = delta.norm(p=order, dim=-1).amax(dim=1)
        if threat.perturbation_scope == "sequence":
            sizes = delta.flatten(1).norm(p=order, dim=1)
        multiple = (search.ball.epsilon[rows] / (threat.epsilon * unit)).round(decimals=6)
        seen_multiples |= set(multiple.tolist())
        assert (sizes <= multiple * threat.epsilon * unit * (1 + 1e-9)).all()
        widest = max(widest, float((sizes / (threat.epsilon * unit)).max()))
        moved = delta.norm(dim=-1) > 0
        moved_by_id |= set(batch.input_ids[moved].tolist())
        # Never the answer.
        assert not (moved.int().cumsum(dim=1).amax(dim=1) > batch.action_positions[:, 0] + 1).any()
    assert seen_multiples == {0.5, 1.0} and widest == pytest.approx(1.0, rel=1e-6)
    assert bool(moved_by_id & markup) == (threat.perturbed_tokens == "prompt")
    assert len(moved_by_id - markup) > 4


@pytest.mark.slow
def test_the_profile_is_each_points_amplification(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS[:1], candidates=True), "prompt")
    numbers = evaluate_agent(agent, TOKENIZER, ROWS[:1], replace(SMALL, attacks=("random",)))
    target = Target(agent, batch)
    # Finite differences along the ascent, taken anew.
    delta, radius = target.origin.clone(), SMALL.threat.epsilon * target.scale.item()
    for t in range(SMALL.ascent_steps):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(target.cost(delta).sum(), delta)
        gradient = gradient * batch.perturbable[..., None]
        direction, delta = gradient / gradient.norm(), delta.detach()
        change = (target.policy(delta + 1e-3 * direction) - target.policy(delta - 1e-3 * direction)) / 2e-3
        assert numbers["amplification_profile"][t] == pytest.approx(change.norm().item(), rel=1e-2)
        delta = delta + 2.5 * radius / SMALL.ascent_steps * direction
        delta = delta * min(1, radius / delta.norm().item())


@pytest.mark.slow
def test_the_batch_size_does_not_matter_without_random_starts(agent):
    settings = [replace(SMALL, attacks=("nll",), batch_size=size) for size in (2, 6)]
    one, other = (evaluate_agent(agent, TOKENIZER, ROWS, setting) for setting in settings)
    for name in ("nominal_success", "nominal_cost", "amplification", "embedding_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-3)


@pytest.mark.slow
def test_the_spectral_norm_is_the_full_jacobians(agent):
    single = ROWS[:1]
    numbers = evaluate_agent(agent, TOKENIZER, single, replace(PRECISE, attacks=("random",)))
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, single, candidates=True), "prompt")
    eager = trained()
    eager.set_attn_implementation("eager")
    embeddings = eager.get_input_embeddings()(batch.input_ids).detach()

    def logits(x):
        return eager(inputs_embeds=x, use_cache=False).logits[0, batch.action_positions[0]]

    full = torch.func.jacfwd(logits)(embeddings)[:, :, 0][:, :, batch.perturbable[0]]
    expected = largest_singular_value(full.reshape(full.shape[0] * full.shape[1], -1))
    assert numbers["spectral_norm"] == pytest.approx(expected.item(), rel=1e-3)


# What attacks are asked to do.


@dataclass(frozen=True)
class Far:
    """Halfway to the boundary in one direction, and that only in balls that are larger than this."""

    least: float = 0.0
    name: str = "far"
    from_others = False
    every_example = False

    def __call__(self, search):
        if (search.ball.epsilon > self.least).all():
            search.visit(0.5 * search.to_boundary(torch.ones_like(search.target.origin)), search.all_rows)


@pytest.mark.slow
def test_the_ray_leads_through_what_was_found_at_the_radius_nearest_to_epsilon(monkeypatch):
    """Of an agent whose answers are right without perturbation."""
    monkeypatch.setitem(ATTACKS, "far", Far(least=1.0))
    threat = ThreatModel(epsilon=2.0, epsilon_mode="absolute")
    settings = replace(SMALL, attacks=("far",), threat=threat, multiples=(0.25, 1.5), power_iterations=2)
    ray = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, settings)["ray"]
    batch = read_batch(COPYING_TOKENIZER, COPYING_ROWS, "prompt", torch.device("cpu"))
    target, margin = Target(copying(), batch, threat), LOSSES["margin"]
    ones = torch.ones_like(target.origin) * batch.perturbable[..., None]
    unit = ones / ones.flatten(1).norm(dim=1)[:, None, None]
    assert ray["multiples"] == [number / 4 for number in range(13)]
    with torch.no_grad():
        # Where that is closer to a wrong answer than no perturbation, which counts as one, too.
        worse = margin(target.policy(0.5 * 1.5 * 2.0 * unit), batch) > margin(target.policy(), batch)
        assert worse.any()
        for multiple, nll in zip(ray["multiples"], ray["nll"], strict=True):
            logits = target.policy(multiple * 2.0 * unit * worse[:, None, None])
            assert nll == pytest.approx(LOSSES["nll"](logits, batch).mean().item(), rel=1e-4)


@pytest.mark.slow
def test_without_an_attack_the_worst_case_is_the_nominal_one(agent, monkeypatch):
    monkeypatch.setitem(ATTACKS, "far", Far(least=float("inf")))
    numbers = evaluate_agent(agent, TOKENIZER, ROWS, replace(SMALL, attacks=("far",), power_iterations=2))
    assert 0 < numbers["nominal_success"] < 100
    for name in ("success", "cost"):
        assert set(numbers[f"worst_case_{name}"].values()) == {numbers[f"nominal_{name}"]}, name
    assert set(numbers["sampled_worst_case_success"].values()) == {numbers["sampled_success"]}


@pytest.mark.slow
def test_each_radius_takes_its_ascents_and_their_steps(monkeypatch):
    """Of an agent whose answers nothing so small makes wrong: a gradient at each start and after each step."""
    without_rules(monkeypatch)
    threat = ThreatModel(epsilon=1e-4)
    for steps, restarts in ((3, 2), (5, 1)):
        settings = replace(
            SEVERAL, threat=threat, attacks=("nll",), attack_steps=steps, attack_restarts=restarts, batch_size=10
        )
        numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, settings)
        assert numbers["worst_case_success"] == {"0.5": 100.0, "1": 100.0}
        assert numbers["gradients"] == 2 * restarts * (steps + 1)


@pytest.mark.slow
def test_random_numbers_follow_from_the_seed(agent, monkeypatch):
    without_rules(monkeypatch)
    settings = replace(SMALL, attacks=("random",), power_iterations=2, multiples=(1.0,))
    one, again, other = (evaluate_agent(agent, TOKENIZER, ROWS, replace(settings, seed=seed)) for seed in (0, 0, 1))
    assert one == again
    for name in ("sampled_worst_case_success", "random_amplification"):
        assert one[name] != other[name], name
    assert one["amplification"] == other["amplification"]


@pytest.mark.slow
def test_the_order_of_the_radii_does_not_matter(agent, monkeypatch):
    without_rules(monkeypatch)
    settings = replace(SMALL, attacks=("nll",), power_iterations=2)
    one, other = (
        evaluate_agent(agent, TOKENIZER, ROWS, replace(settings, multiples=multiples))
        for multiples in ((0.5, 1.0, 1.5), (1.5, 0.5, 1.0))
    )
    assert one == other


@pytest.mark.slow
def test_a_further_attack_is_one_object_and_shows_up_in_the_results(agent, monkeypatch):
    @dataclass(frozen=True)
    class Far:
        name: str = "far"
        from_others = False
        every_example = False

        def __call__(self, search):
            search.visit(search.to_boundary(torch.ones_like(search.target.origin)), search.all_rows)

    monkeypatch.setitem(ATTACKS, "far", Far())
    settings = replace(SMALL, attacks=("far",), threat=ThreatModel(epsilon=2.0), power_iterations=2)
    numbers = evaluate_agent(agent, TOKENIZER, ROWS, settings)
    assert list(numbers["attacks"]) == ["far"] and numbers["attacks"]["far"]["attacked"]["0.5"] == len(ROWS)
    assert numbers["attacks"]["far"]["success"] == pytest.approx(numbers["worst_case_success"])
    # By hand: the same number at each place of the prompt, so long in all.
    for multiple in (0.5, 1.0, 1.5):
        left = 0
        for row in ROWS:
            batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, [row], candidates=True), "prompt")
            target = Target(agent, batch)
            ones = torch.ones_like(target.origin) * batch.perturbable[..., None]
            right = [
                float(target.outcome(m * 2.0 * target.scale * ones / ones.norm()).greedy)
                for m in (0.5, 1.0, 1.5)
                if m <= multiple
            ]
            left += min(right)
        assert numbers["worst_case_success"][f"{multiple:g}"] == pytest.approx(100 * left / len(ROWS))


@pytest.mark.slow
def test_the_embedding_norm_is_the_mean_over_the_prompts(agent, monkeypatch):
    without_rules(monkeypatch)
    settings = replace(SMALL, attacks=("random",), power_iterations=2, multiples=(1.0,))
    norms = []
    for row in ROWS:
        prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        norms.append(agent.get_input_embeddings()(torch.tensor(prompt)).detach().norm(dim=-1).mean().item())
    numbers = evaluate_agent(agent, TOKENIZER, ROWS, settings)
    assert numbers["embedding_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)
