"""What a model answers in an episode under attack."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.target import Target, success
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.episodes import players
from aajr_hf.evaluation.episodes.players import ALONE, SUITE, AttackSettings, ModelPlayer, worst_prompts
from aajr_hf.evaluation.robustness.screening import fit_predictor
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.policy.policy import AgentPolicy
from tests.support.answers import ATTACK, ROWS, greedy
from tests.support.families import TINY_FAMILIES
from tests.support.known_policies import Visited
from tests.support.small_agents import TOKENIZER


def test_an_attack_of_radius_zero_changes_no_answer(agent):
    plain = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    assert (
        ModelPlayer(agent, TOKENIZER, attack=AttackSettings(ThreatModel(0.0), steps=3, restarts=2)).answer(ROWS)
        == plain
    )


def test_attacked_answers_are_those_to_the_perturbed_embeddings(agent):
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, ATTACK)
    answers = ModelPlayer(agent, TOKENIZER, attack=ATTACK).answer(ROWS)
    assert answers == [greedy(agent, row, delta) for row, delta in zip(ROWS, deltas, strict=True)]
    # And the adversary was not idle.
    assert answers != ModelPlayer(agent, TOKENIZER).answer(ROWS)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    with torch.no_grad():
        forced, _ = success(AgentPolicy(agent, batch)(deltas), batch)
    assert 0 < forced.sum() < len(ROWS)
    given = [answer == row["completion"][0]["content"] for answer, row in zip(answers, ROWS, strict=True)]
    assert given == forced.bool().tolist()


def test_the_radius_counts_in_norms_of_the_prompt_and_the_answer_is_left_alone(agent):
    deltas, lengths = worst_prompts(agent, TOKENIZER, ROWS, ATTACK)
    for row, delta, length in zip(ROWS, deltas, lengths, strict=True):
        prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        unit = agent.get_input_embeddings()(torch.tensor(prompt)).norm(dim=-1).mean()
        assert float(length) == pytest.approx(float(delta.norm() / unit.detach()), rel=1e-5)
        assert 0.9 * ATTACK.threat.epsilon * unit < delta.norm() <= ATTACK.threat.epsilon * unit
        assert not delta[len(prompt) :].any()


def test_perturbations_of_any_size_reach_the_prompt_alone(agent, monkeypatch):
    deltas = 0.5 * torch.randn(len(ROWS), 80, 16)
    monkeypatch.setattr(players, "worst_prompts", lambda *_: (deltas, torch.ones(len(ROWS))))
    answers = ModelPlayer(agent, TOKENIZER, attack=ATTACK, batch_size=len(ROWS)).answer(ROWS)
    assert answers == [greedy(agent, row, delta) for row, delta in zip(ROWS, deltas, strict=True)]


@pytest.mark.parametrize("name", [*ALONE, SUITE])
def test_each_attack_makes_some_answer_wrong_and_leaves_others_to_a_smaller_radius(agent, name):
    expected = [row["completion"][0]["content"] for row in ROWS]

    def right(epsilon, name=name):
        attack = AttackSettings(ThreatModel(epsilon=epsilon), name, steps=6)
        answers = ModelPlayer(agent, TOKENIZER, attack=attack).answer(ROWS)
        return [answer == known for answer, known in zip(answers, expected, strict=True)]

    plain = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    nominal = [answer == known for answer, known in zip(plain, expected, strict=True)]
    # Random points need more room; the right answer is not always the one that costs least.
    wide = right(2.0)
    assert sum(wide) < sum(nominal)
    if name not in ("random", "cost"):
        assert sum(wide) <= sum(right(0.05)) and sum(wide) == 0


@pytest.mark.slow
def test_the_suite_is_as_bad_as_each_attack_alone(agent):
    """Row by row: what one of them breaks, all of them together do."""
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    broken = {}
    for name in (*ALONE, SUITE):
        torch.manual_seed(0)  # the same random points for each
        deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(ThreatModel(epsilon=0.1), name, steps=3))
        with torch.no_grad():
            broken[name] = success(AgentPolicy(agent, batch)(deltas), batch)[0] == 0
    for name in ALONE:
        assert (broken[SUITE] | ~broken[name]).all(), name
    assert broken[SUITE].sum() > min(broken[name].sum() for name in ALONE) and not broken[SUITE].all()


@pytest.mark.parametrize("name", ["nll", "margin", "cost", "random"])
def test_an_attack_alone_leaves_the_point_with_the_highest_value_of_its_own_loss(agent, name, monkeypatch):
    visited = Visited(monkeypatch)
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(ThreatModel(epsilon=0.2), name, steps=8))
    loss = LOSSES[name if name != "random" else "margin"]
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    points = [(delta, rows) for _, delta, rows in visited.points]
    assert len(points) > 3
    with torch.no_grad():
        values = loss(AgentPolicy(agent, batch)(deltas), batch)
        tried = torch.full((len(points), len(ROWS)), float("-inf"))
        for i, (delta, rows) in enumerate(points):
            some = batch.select(rows)
            tried[i, rows] = loss(AgentPolicy(agent, some)(delta), some)
    assert values.tolist() == pytest.approx(tried.amax(dim=0).tolist(), rel=1e-4, abs=1e-5)
    assert (tried.amax(dim=0) > tried.amin(dim=0)).all()


def test_parameters_are_as_they_were_after_an_attack(agent):
    before = [parameter.requires_grad for parameter in agent.parameters()]
    ModelPlayer(agent, TOKENIZER, attack=ATTACK).answer(ROWS[:2])
    assert all(before) and [parameter.requires_grad for parameter in agent.parameters()] == before
    assert not agent.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_each_family_answers_what_its_attacked_policy_finds_likeliest(family, tiny_causal_lm, monkeypatch):
    agent = tiny_causal_lm(family, vocab_size=len(TOKENIZER), max_position_embeddings=256)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    policy = AgentPolicy(agent, batch)
    scale = policy.embeddings().std()
    delta = 3 * scale * torch.randn(*batch.input_ids.shape, 16) * batch.perturbable[..., None]
    monkeypatch.setattr(players, "worst_prompts", lambda *_: (delta, torch.ones(len(ROWS))))
    said = []
    player = ModelPlayer(agent, TOKENIZER, attack=ATTACK)
    monkeypatch.setattr(player, "_text", lambda tokens, budget: said.append(tokens[0]) or "")
    player.answer(ROWS)
    with torch.no_grad():
        first = batch.action_mask.int().argmax(dim=1)
        rows = torch.arange(len(ROWS))
        assert said == policy(delta)[rows, first].argmax(dim=-1).tolist()
        assert said != policy()[rows, first].argmax(dim=-1).tolist()


def test_an_attack_alone_goes_to_the_end_as_often_as_it_is_asked_to(agent, monkeypatch):
    """Answers that are wrong from the first step on may do more harm yet."""
    visited = Visited(monkeypatch)
    for steps, restarts in ((6, 1), (3, 2)):
        visited.points.clear()
        attack = AttackSettings(ThreatModel(epsilon=20.0), "nll", steps=steps, restarts=restarts)
        worst_prompts(agent, TOKENIZER, ROWS, attack)
        assert sum(len(rows) for *_, rows in visited.points) == restarts * (steps + 1) * len(ROWS)


def test_random_points_follow_from_the_global_generator(agent):
    attack = AttackSettings(ThreatModel(epsilon=0.2), "random")

    def drawn(seed):
        torch.manual_seed(seed)
        return worst_prompts(agent, TOKENIZER, ROWS, attack)[0]

    assert torch.equal(drawn(0), drawn(0)) and not torch.allclose(drawn(0), drawn(1))


def test_only_the_tokens_of_the_threat_model_are_moved(agent):
    markup = set(TOKENIZER.all_special_ids) | {
        TOKENIZER.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>")
    }
    for tokens in ("prompt", "observation"):
        threat = ThreatModel(epsilon=0.3, perturbed_tokens=tokens)
        deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(threat, "nll", steps=2))
        for row, delta in zip(ROWS, deltas, strict=True):
            prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
            moved = {token for token, there in zip(prompt, delta.norm(dim=-1) > 0, strict=False) if there}
            assert moved - markup and bool(moved & markup) == (tokens == "prompt")


def test_with_a_predictor_no_gradient_of_the_model_is_computed(agent, monkeypatch):
    """The step goes to the boundary, along what is predicted for the prompt alone."""
    batch = read_batch(TOKENIZER, ROWS, "prompt", agent.device)
    threat = ThreatModel(epsilon=0.3)
    predictor = fit_predictor([Target(agent, batch, threat)])
    passed, forward = [], AgentPolicy.__call__
    monkeypatch.setattr(AgentPolicy, "__call__", lambda *args: passed.append(forward(*args)) or passed[-1])
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(threat, "predicted", predictor=predictor))
    assert passed and not any(logits.requires_grad for logits in passed)
    target = Target(agent, batch, threat)
    expected = predictor.on(target, "warm_nll").flatten(1)
    assert torch.allclose(torch.cosine_similarity(deltas.flatten(1), expected), torch.ones(len(ROWS)), atol=1e-4)
    assert torch.allclose(deltas.flatten(1).norm(dim=1), target.ball(1.0).epsilon, rtol=1e-3)
