"""What one perturbation explains of the worst case agrees with the outcomes and the tallies, in worlds and for tool calls."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation.attacks.lessons import Lessons
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.evaluation.tool_calls.evaluate import ToolCallSettings, evaluate_tool_calls
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.policy.policy import frozen_parameters
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying
from tests.support.tool_callers import ROWS as CALLS
from tests.support.tool_callers import caller

ATTACKS = ("warm_nll", "universal", "predicted")


@functools.cache
def in_a_world(attacks=ATTACKS, exhaustive=True):
    threat = ThreatModel(epsilon=1.0)
    settings = replace(SMALL, threat=threat, attacks=attacks, exhaustive=exhaustive, batch_size=16)
    return evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, settings)


def check(numbers, nominal, worst):
    """Against outcomes of all examples, and what the attack leaves alone."""
    shared, examples = numbers["shared_directions"], numbers["examples"]
    for multiple, outcomes in numbers["outcomes"][worst].items():
        right = numbers["outcomes"][nominal]
        broken = sum(r == 1 and o == 0 for r, o in zip(right, outcomes, strict=True))
        assert shared["worst"][multiple] == broken
        alone = numbers["attacks"]["universal"]["alone"][multiple] * examples / 100
        # It alone breaks what it explains, and perhaps what was wrong before.
        assert shared["explained"][multiple] <= examples - round(alone)
        if numbers[nominal] == 100:
            assert shared["explained"][multiple] == examples - round(alone)


@pytest.mark.slow
def test_in_a_world():
    numbers = in_a_world()
    assert numbers["nominal_success"] == 100
    check(numbers, "nominal_success", "worst_case_success")
    shared = numbers["shared_directions"]
    assert 0 < shared["explained"]["1.5"] <= shared["worst"]["1.5"] and shared["examples"] == len(COPYING_ROWS)
    assert -1 <= shared["cosine"] <= 1 and 0 <= shared["signs"] <= 100 and shared["energy"]


@pytest.mark.slow
def test_the_same_is_explained_where_attacks_see_only_what_is_left():
    plain, whole = in_a_world(exhaustive=False), in_a_world()
    for count in ("worst", "explained"):
        assert plain["shared_directions"][count] == whole["shared_directions"][count]
    assert plain["gradients"] < whole["gradients"]


@pytest.mark.slow
def test_without_these_attacks_nothing_is_learnt():
    numbers = in_a_world(attacks=("warm_nll",))
    assert "shared_directions" not in numbers and numbers["gradients"] < in_a_world()["gradients"]


@pytest.mark.slow
def test_for_tool_calls():
    attacks = ("nll", "universal", "predicted")
    settings = ToolCallSettings(multiples=(4.0, 40.0), attacks=attacks, attack_steps=2, batch_size=2, exhaustive=True)
    numbers = evaluate_tool_calls(*caller(), read_rows(CALLS), settings)
    assert numbers["nominal_exact"] == 100
    check(numbers, "nominal_exact", "worst_case_exact")
    assert numbers["shared_directions"]["explained"]["40"] > 0


@pytest.mark.slow
def test_for_each_radius_the_perturbation_is_the_one_learnt_for_it():
    """Evaluated together or alone, a radius is attacked along the same direction."""

    def learnt(multiples):
        batch = read_batch(COPYING_TOKENIZER, COPYING_ROWS, "prompt", copying().device)
        target, numbers = Target(copying(), batch, ThreatModel()), list(range(len(COPYING_ROWS)))
        lessons = Lessons(lambda some: target.select(torch.tensor(some)), len(numbers), 16, multiples)
        return {multiple: lessons.on(target, numbers, multiple)["universal"] for multiple in multiples}

    with frozen_parameters(copying()):
        together, alone = learnt((0.5, 4.0)), learnt((4.0,)) | learnt((0.5,))
    assert all(torch.equal(together[multiple], alone[multiple]) for multiple in alone)
    assert not torch.allclose(together[0.5], together[4.0])
