"""Several agents are evaluated together, with perturbations that are handed over between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.agents import Agent, why_not
from aajr_hf.evaluation.attacks.run import UnderAttack
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.evaluate import (
    _of_same_tokens,
    evaluate_agents,
    progress_steps,
)
from aajr_hf.training.models.base_agent import train_tokenizer
from tests.support.several_agents import SEVERAL, agents_and_sources, several
from tests.support.short_amplification import make_rough
from tests.support.small_agents import (
    COPYING_ROWS,
    COPYING_TOKENIZER,
    ROWS,
    TOKENIZER,
    copying,
    model,
)


def evaluate_several(settings, rows=COPYING_ROWS, **more):
    agents, sources = agents_and_sources()
    return evaluate_agents(agents, rows, settings, sources=sources, **more)


@pytest.mark.slow
def test_early_stopping_and_batches_change_no_success(monkeypatch):
    make_rough(monkeypatch)
    rows, few = COPYING_ROWS[::2], replace(SEVERAL, attack_steps=3, attack_restarts=1)
    found = {
        "default": evaluate_several(few, rows),
        "exhaustive": evaluate_several(replace(few, exhaustive=True), rows),
        "small batches": evaluate_several(replace(few, batch_size=5), rows),
    }
    shares = set()
    for name in ("one", "other"):
        expected, everything = found["default"][name], found["exhaustive"][name]
        for numbers in found.values():
            assert numbers[name]["worst_case_success"] == expected["worst_case_success"]
            assert numbers[name]["outcomes"]["worst_case_success"] == expected["outcomes"]["worst_case_success"]
        shares |= set(expected["worst_case_success"].values())
        batches = found["small batches"][name]
        for multiple in ("0.5", "1"):
            for share in ("sampled_worst_case_success", "worst_case_cost"):
                assert batches[share][multiple] == pytest.approx(expected[share][multiple], rel=1e-6)
            assert (
                everything["sampled_worst_case_success"][multiple] <= expected["sampled_worst_case_success"][multiple]
            )
            assert everything["worst_case_cost"][multiple] >= expected["worst_case_cost"][multiple]
        assert everything["gradients"] > expected["gradients"]
        assert list(expected["attacks"]) == list(everything["attacks"]) == list(ATTACKS)
        for attack in ATTACKS:
            assert "alone" not in expected["attacks"][attack]
            for multiple, alone in everything["attacks"][attack]["alone"].items():
                assert alone >= everything["worst_case_success"][multiple]
            for field in ("attacked", "broken", "success"):
                assert everything["attacks"][attack][field] == expected["attacks"][attack][field]
        last = list(expected["attacks"].values())[-1]
        assert last["success"] == pytest.approx(expected["worst_case_success"])
    assert len(shares) > 2


@pytest.mark.slow
def test_sources_are_tried_and_not_measured_and_all_are_as_they_were(monkeypatch):
    make_rough(monkeypatch)
    agents, sources = agents_and_sources()
    for agent in several():
        agent.model.zero_grad()  # of its training
    reported = []
    settings = replace(SEVERAL, attacks=("nll", "transferred", "from_others"), batch_size=6)
    numbers = evaluate_agents(
        agents,
        COPYING_ROWS,
        settings,
        sources=sources,
        budgets={"one": 5.0, "other": None},
        on_progress=reported.append,
    )
    assert list(numbers) == ["one", "other"]
    assert numbers["one"]["transferred_from"] == ["other", "stranger"]
    assert numbers["other"]["transferred_from"] == ["one", "stranger"]
    for name in numbers:
        assert reported.count(name) == progress_steps(settings, len(COPYING_ROWS)) == 3 * 3 + 1
    assert len(reported) == 2 * 10
    assert "membership" in numbers["one"] and "membership" not in numbers["other"]
    for agent in several():
        assert all(p.grad is None and p.requires_grad for p in agent.model.parameters())
        assert not agent.model.get_input_embeddings()._forward_hooks and not agent.model.training
    # One alone is attacked by nobody else, and does no worse.
    alone = evaluate_agents(agents[:1], COPYING_ROWS, settings)["one"]
    assert alone["transferred_from"] == [] and list(alone["attacks"]) == ["nll"]
    for multiple, share in numbers["one"]["worst_case_success"].items():
        assert share <= alone["worst_case_success"][multiple]
    by_others = sum(
        numbers["one"]["attacks"][name]["broken"][m] for name in ("transferred", "from_others") for m in ("0.5", "1")
    )
    assert by_others > 0


@pytest.mark.slow
def test_agents_that_split_the_rows_otherwise_are_not_handed_each_others_perturbations(monkeypatch):
    make_rough(monkeypatch)
    agents, _ = agents_and_sources()
    texts = [m["content"] for row in COPYING_ROWS for m in row["prompt"]]
    tokenizer = train_tokenizer([*texts, "owe owe need"] + [f"take {n}" for n in range(5)], 300)
    agents.append(Agent("split", "", model(tokenizer, seed=2).double(), tokenizer))
    agents.append(Agent("wide", "", model(COPYING_TOKENIZER, width=32).double(), COPYING_TOKENIZER))
    settings = replace(SEVERAL, attacks=("nll", "transferred"), attack_steps=1, multiples=(1.0,))
    numbers = evaluate_agents(agents, COPYING_ROWS, settings)
    assert numbers["one"]["transferred_from"] == ["other"] and numbers["other"]["transferred_from"] == ["one"]
    for name in ("split", "wide"):
        assert numbers[name]["transferred_from"] == [] and list(numbers[name]["attacks"]) == ["nll"]


def test_a_transfer_needs_the_same_tokens_and_width():
    agent = Agent("", "", model(), TOKENIZER)
    assert why_not(Agent("", "", model(seed=1), TOKENIZER), agent, ROWS) is None
    reason = why_not(Agent("", "", model(width=32), TOKENIZER), agent, ROWS)
    assert reason == "its embeddings have width 32, and the embeddings of the attacked model have width 16"
    assert "different tokens" in why_not(Agent("", "", model(COPYING_TOKENIZER), COPYING_TOKENIZER), agent, ROWS)


def test_perturbations_are_handed_over_between_models_that_read_the_same():
    batch = read_batch(COPYING_TOKENIZER, COPYING_ROWS[::5], "prompt", torch.device("cpu"))
    same, *others = (
        replace(batch),
        replace(batch, input_ids=batch.input_ids.flip(0)),
        replace(batch, perturbable=~batch.perturbable),
        replace(batch, action_labels=batch.action_labels.flip(0)),
    )
    models = {
        name: UnderAttack(Target(copying(), some), None)
        for name, some in zip(("one", "same", "ids", "moved", "labels"), (batch, same, *others), strict=True)
    }
    groups = [list(group) for group in _of_same_tokens(models)]
    assert groups == [["one", "same"], ["ids"], ["moved"], ["labels"]]
