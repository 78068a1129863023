"""An agent that knows its calls by heart, without and under attack, against generation without a cache."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.attacks.learnt import Learnt
from aajr_hf.evaluation.attacks.suite import ATTACKS, TEXT_ATTACKS
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.generation import generate, render_prompts
from aajr_hf.evaluation.tool_calls import evaluate
from aajr_hf.evaluation.tool_calls.caller import ToolCaller
from aajr_hf.evaluation.tool_calls.evaluate import WITHIN_RADIUS, ToolCallSettings, evaluate_tool_calls
from aajr_hf.evaluation.tool_calls.judge import FAILURES, Verdict
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.evaluation.tool_calls.under_attack import worse
from aajr_hf.training.policy.system_losses import nll
from tests.support.known_policies import Visited
from tests.support.short_triggers import short_triggers  # noqa: F401
from tests.support.tool_callers import HERMES, READ, ROWS, SMALL, TOOLS, caller, calling
from tests.support.trust import GOOD


@torch.no_grad()
def greedy(agent, prompt, length, delta=None) -> list[int]:
    """The likeliest tokens one by one, without padding, cache or `generate`; delta (>= length of the prompt, d)."""
    embed, said = agent.get_input_embeddings(), []
    start = embed(torch.tensor([prompt])) + (0 if delta is None else delta[: len(prompt)])
    for _ in range(length):
        state = torch.cat([start, embed(torch.tensor([said], dtype=torch.long))], dim=1)
        said.append(int(agent(inputs_embeds=state, use_cache=False).logits[0, -1].argmax()))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("template", ["qwen3", HERMES], ids=["known to TRL", "read here"])
def test_who_knows_the_calls_by_heart_is_perfect_and_falls_under_a_large_radius(template):
    reported = []
    numbers = evaluate_tool_calls(*caller(template), READ, SMALL, lambda: reported.append(1))
    assert numbers["nominal_valid"] == numbers["nominal_exact"] == 100
    assert numbers["reference_valid"] == numbers["reference_exact"] == 100
    assert numbers["worst_case_valid"]["20"] <= 25 and numbers["worst_case_exact"]["20"] == 0
    assert numbers["worst_case_exact"]["0.5"] > 0
    assert numbers["nominal_nll"] < 0.01 < numbers["worst_case_nll"]["0.5"] < numbers["worst_case_nll"]["20"]
    assert numbers["failures"].keys() == {"nominal", "0.5", "20"}
    for name, counts in numbers["failures"].items():
        valid = numbers["nominal_valid"] if name == "nominal" else numbers["worst_case_valid"][name]
        assert counts.keys() == FAILURES.keys() and sum(counts.values()) == round(len(ROWS) * (1 - valid / 100))
    assert numbers["examples"] == len(ROWS)
    assert len(reported) == SMALL.progress_steps(len(ROWS)) == 4
    assert replace(SMALL, batch_size=3).progress_steps(len(ROWS)) == 7


@pytest.mark.slow
def test_it_does_not_know_other_calls():
    other = read_rows([calling("Dim den to 3", TOOLS, [("dim", {"room": "den", "level": 4})]), *ROWS[1:]])
    assert ToolCaller(*caller(), other).answer(other) == [Verdict(None, False)] + [Verdict(None, True)] * 3


@pytest.mark.slow
def test_an_attack_of_radius_zero_changes_nothing():
    numbers = evaluate_tool_calls(*caller(), READ, replace(SMALL, multiples=(0.0,), attack_restarts=2))
    assert numbers["worst_case_valid"]["0"] == numbers["nominal_valid"]
    assert numbers["worst_case_exact"]["0"] == numbers["nominal_exact"]
    assert numbers["worst_case_nll"]["0"] == pytest.approx(numbers["nominal_nll"])


@pytest.mark.slow
def test_attacked_answers_are_those_to_the_perturbed_embeddings():
    agent, tokenizer = caller()
    prompts, references = render_prompts(tokenizer, READ)
    torch.manual_seed(1)
    deltas = 0.3 * torch.randn(len(READ), max(map(len, prompts)) + 3, 32)
    asked = ToolCaller(agent, tokenizer, READ)
    length = max(map(len, references))
    for delta in (None, deltas):
        said = generate(agent, tokenizer.pad_token_id, prompts, delta, length)
        for i, (tokens, prompt) in enumerate(zip(said, prompts, strict=True)):
            end = next((j + 1 for j, token in enumerate(tokens) if token in asked.ends), length)
            assert tokens[:end] == greedy(agent, prompt, length, None if delta is None else delta[i])[:end]
    assert asked.answer(READ, deltas) != asked.answer(READ) == [Verdict(None, True)] * len(READ)


def test_the_adversary_sees_the_tools_and_the_answer_that_is_asked_for():
    agent, tokenizer = caller()
    settings = ToolCallSettings(threat=ThreatModel(perturbed_tokens="prompt"))
    ((rows, numbers, batch),) = evaluate._batches(agent, tokenizer, READ, settings)
    assert rows == [READ[number] for number in numbers] and sorted(numbers) == list(range(len(READ)))
    for i, (prompt, reference) in enumerate(zip(*render_prompts(tokenizer, rows), strict=True)):
        assert "heat" in tokenizer.decode(prompt)
        ids = prompt + reference
        assert batch.input_ids[i, : len(ids)].tolist() == ids and batch.attention_mask[i].sum() == len(ids)
        action = tokenizer.decode(batch.action_labels[i][batch.action_mask[i]])
        assert action == tokenizer.decode(reference).rstrip() and action.endswith("<|im_end|>")
        assert batch.perturbable[i].tolist() == [j < len(prompt) for j in range(batch.input_ids.shape[1])]


@pytest.mark.slow
def test_the_attack_finds_the_worst_within_its_radius_and_moves_what_it_may(monkeypatch):
    agent, tokenizer = caller()
    seen = []
    answer = ToolCaller.answer
    monkeypatch.setattr(
        ToolCaller, "answer", lambda self, rows, deltas=None: seen.append(deltas) or answer(self, rows, deltas)
    )
    ((rows, *_),) = evaluate._batches(agent, tokenizer, READ, ToolCallSettings())
    prompts, _ = render_prompts(tokenizer, rows)
    norms = [agent.get_input_embeddings()(torch.tensor(prompt)).detach().norm(dim=-1) for prompt in prompts]
    for tokens in ("prompt", "observation"):
        seen.clear()
        numbers = evaluate_tool_calls(
            agent, tokenizer, READ, replace(SMALL, multiples=(1.0,), threat=ThreatModel(perturbed_tokens=tokens))
        )
        plain, deltas = seen
        assert plain is None
        units = []
        for delta, prompt, norm, row in zip(deltas, prompts, norms, rows, strict=True):
            moved = delta.norm(dim=-1) > 0
            question = row["prompt"][0]["content"]
            texts = [tokenizer.decode(t) for t, there in zip(prompt, moved, strict=False) if there]
            assert not moved[len(prompt) :].any()
            if tokens == "observation":
                assert question.startswith("".join(texts)) and len("".join(texts)) > 0.5 * len(question)
                units.append(norm[moved[: len(prompt)]].mean())
            else:
                assert moved[: len(prompt)].sum() > 0.9 * len(prompt)
                units.append(norm.mean())
            assert 0.9 * SMALL.threat.epsilon < delta.norm() / units[-1] <= SMALL.threat.epsilon * 1.0001
        assert numbers["embedding_norm"] == pytest.approx(float(torch.stack(units).mean()), rel=1e-5)
        # What is reported is what it did.
        settings = ToolCallSettings(threat=ThreatModel(perturbed_tokens=tokens))
        _, _, encoded = next(evaluate._batches(agent, tokenizer, READ, settings))
        target = Target(agent, encoded)
        with torch.no_grad():
            assert numbers["worst_case_nll"]["1"] == pytest.approx(
                float(nll(target.policy(deltas), encoded).mean()), rel=1e-4
            )


@pytest.mark.slow
def test_the_batch_size_does_not_matter():
    one, other = (evaluate_tool_calls(*caller(), READ, replace(SMALL, batch_size=size)) for size in (1, 4))
    # At a radius beyond all that embeddings are, rounding decides.
    for name in ("worst_case_valid", "worst_case_exact", "worst_case_nll", "failures"):
        del one[name]["20"], other[name]["20"]
        if name in one["outcomes"]:
            del one["outcomes"][name]["20"], other["outcomes"][name]["20"]
    assert one["failures"] == other["failures"] and one["outcomes"] == other["outcomes"]
    for name in one.keys() - {"failures", "outcomes", "attacks", "trust"}:
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5)


# All attacks.

EVERYTHING = ToolCallSettings(multiples=(1.0, 0.25, 0.5), attack_steps=2, batch_size=3)


@functools.cache
def evaluated(exhaustive=False, **more):
    """In double precision: rounding makes no answer another one."""
    agent, tokenizer = caller()
    settings = replace(EVERYTHING, exhaustive=exhaustive, **more)
    return evaluate_tool_calls(copy.deepcopy(agent).double(), tokenizer, READ, settings)


@pytest.mark.slow
def test_of_all_attacks_the_worst_answer_counts_at_each_radius_and_the_smaller_ones():
    numbers = evaluated()
    assert (
        list(numbers["attacks"])
        == list(WITHIN_RADIUS)
        == [n for n in ATTACKS if n not in ("cost", "transferred", "from_others")]
    )
    assert list(numbers["text_attacks"]) == list(TEXT_ATTACKS)
    for kind in ("valid", "exact"):
        by_radius = [numbers["outcomes"][f"nominal_{kind}"]]
        by_radius += [numbers["outcomes"][f"worst_case_{kind}"][multiple] for multiple in ("0.25", "0.5", "1")]
        for wider, smaller in zip(by_radius[1:], by_radius, strict=False):
            assert all(one <= other for one, other in zip(wider, smaller, strict=True))
        assert sum(by_radius[-1]) < sum(by_radius[0])
    nll = [numbers["nominal_nll"], *(numbers["worst_case_nll"][multiple] for multiple in ("0.25", "0.5", "1"))]
    assert nll == sorted(nll) and nll[-1] > nll[0]
    for multiple in ("0.25", "0.5", "1"):
        left = 100.0 * sum(numbers["outcomes"]["nominal_exact"]) / len(READ)
        if multiple != "0.25":
            left = numbers["worst_case_exact"]["0.25" if multiple == "0.5" else "0.5"]
        for shown in numbers["attacks"].values():
            assert shown["attacked"][multiple] == round(left * len(READ) / 100)
            assert shown["exact"][multiple] == left - 100 * shown["broken"][multiple] / len(READ)
            left = shown["exact"][multiple]
        assert left == numbers["worst_case_exact"][multiple]


@pytest.mark.slow
def test_to_let_every_attack_see_every_row_changes_no_exact_share():
    plain, whole = evaluated(), evaluated(exhaustive=True)
    assert whole["worst_case_exact"] == plain["worst_case_exact"]
    assert whole["outcomes"]["worst_case_exact"] == plain["outcomes"]["worst_case_exact"]
    for multiple, valid in whole["worst_case_valid"].items():
        assert valid <= plain["worst_case_valid"][multiple]
        assert whole["worst_case_nll"][multiple] >= plain["worst_case_nll"][multiple]
        for attack in WITHIN_RADIUS:
            assert whole["attacks"][attack]["alone"][multiple] >= whole["worst_case_exact"][multiple]
            assert "alone" not in plain["attacks"][attack]
    assert evaluated(exhaustive=True, attacks=("nll",))["attacks"]["nll"]["alone"] == whole["attacks"]["nll"]["alone"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHIN_RADIUS)
def test_each_attack_makes_some_call_another_one(name):
    """Attacks that learn from other rows have only two here, so they need a wider ball."""
    radius = 20.0 if isinstance(ATTACKS[name], Learnt) else 3.0
    numbers = evaluated(multiples=(radius,), attacks=(name,))
    left = numbers["worst_case_exact"][f"{radius:g}"]
    assert numbers["nominal_exact"] == 100 and left <= (75 if name in ("random", "predicted") else 25)


def test_of_two_verdicts_the_worse_counts():
    invalid, other, right = Verdict("schema", False), Verdict(None, False), Verdict(None, True)
    for one, two, expected in (
        (invalid, other, invalid),
        (other, right, other),
        (invalid, right, invalid),
        (right, right, right),
    ):
        assert worse(one, two) == worse(two, one) == expected


@pytest.mark.slow
def test_the_model_is_as_it_was_after_an_attack():
    agent, tokenizer = caller()
    before = [parameter.requires_grad for parameter in agent.parameters()]
    template = tokenizer.chat_template
    evaluate_tool_calls(agent, tokenizer, READ[:1], SMALL)
    assert all(before) and [parameter.requires_grad for parameter in agent.parameters()] == before
    assert not agent.get_input_embeddings()._forward_hooks
    assert tokenizer.chat_template == template and getattr(tokenizer, "response_template", None) is None


def test_an_ascent_goes_to_the_end_as_often_as_it_is_asked_to(monkeypatch):
    """Even where the likeliest tokens are other ones from the first step on: another call may be worse."""
    agent, tokenizer = caller()
    visited = Visited(monkeypatch)
    monkeypatch.setattr(evaluate, "measure_trust", lambda target, multiple: GOOD)
    for steps, restarts in ((4, 1), (2, 2)):
        visited.points.clear()
        settings = replace(SMALL, multiples=(20.0,), attack_steps=steps, attack_restarts=restarts)
        numbers = evaluate_tool_calls(agent, tokenizer, READ[:2], settings)
        assert numbers["worst_case_exact"]["20"] == 0
        assert sum(len(rows) for *_, rows in visited.points) == restarts * (steps + 1) * 2


def test_the_rules_are_checked_on_exact_shares_at_the_radius_nearest_to_epsilon(monkeypatch):
    seen = []

    def measured(target, multiple):
        seen.append((target, multiple))
        return GOOD

    monkeypatch.setattr(evaluate, "measure_trust", measured)
    agent, tokenizer = caller()
    settings = replace(SMALL, multiples=(0.75, 2.0), attack_steps=2)
    # The last call is a valid one, but not what is accepted.
    last = calling("Dim all", TOOLS, [("dim", {"room": "all"})], [{"dim": {"room": ["den"]}}])
    numbers = evaluate_tool_calls(agent, tokenizer, read_rows([*ROWS[:2], last]), settings)
    [(target, multiple)] = seen
    assert multiple == 0.75 and target.threat == settings.threat and len(target.batch) == 3
    [detail] = [rule["detail"] for rule in numbers["trust"] if rule["rule"] == "success falls with the radius"]
    exact = numbers["worst_case_exact"]
    assert exact != numbers["worst_case_valid"]
    assert detail == f"{exact['0.75']:.1f}% at 0.75x, {exact['2']:.1f}% at 2x"


@pytest.mark.slow
def test_random_points_follow_from_the_seed(monkeypatch):
    monkeypatch.setattr(evaluate, "measure_trust", lambda target, multiple: GOOD)
    settings = replace(SMALL, multiples=(1.0,), attacks=("random",))
    one, again, other = (
        evaluate_tool_calls(*caller(), READ, replace(settings, seed=seed))["worst_case_nll"] for seed in (0, 0, 1)
    )
    assert one == again != other


def test_what_a_reference_lacks_is_told_apart(monkeypatch):
    """One completion breaks its schema, another one calls with a value that is not accepted."""
    monkeypatch.setattr(evaluate, "measure_trust", lambda target, multiple: GOOD)
    rows = read_rows(
        [
            *ROWS[:2],
            calling("Dim den to 3", TOOLS, [("dim", {"level": 3})], [{"dim": {"room": ["den"]}}]),
            calling("Dim den to 3", TOOLS, [("dim", {"room": "den", "level": 3})], [{"dim": {"room": ["hall"]}}]),
        ]
    )
    numbers = evaluate_tool_calls(*caller(), rows, replace(SMALL, multiples=(0.0,), attack_steps=1))
    assert (numbers["reference_valid"], numbers["reference_exact"]) == (75.0, 50.0)
