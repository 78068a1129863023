"""Agents that are evaluated together."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

from aajr_hf.evaluation.agents import Agent
from aajr_hf.evaluation.attacks.threat_model import ThreatModel

from .small_agents import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying, fit, model

SEVERAL = replace(
    SMALL, threat=ThreatModel(epsilon=0.4), power_iterations=2, batch_size=16, multiples=(0.5, 1.0), attack_steps=5
)


@functools.cache
def several():
    """Two agents that copy a number, and a stranger, in double precision: rounding breaks no example."""
    one = copy.deepcopy(copying()).double()
    other = fit(model(COPYING_TOKENIZER, seed=1), COPYING_TOKENIZER, COPYING_ROWS[:12]).double()
    stranger = model(COPYING_TOKENIZER, seed=5).double()
    named = (("one", one), ("other", other), ("stranger", stranger))
    return [Agent(name, "", agent, COPYING_TOKENIZER) for name, agent in named]


def agents_and_sources():
    *agents, stranger = several()
    return agents, [stranger]


def without_rules(monkeypatch):
    monkeypatch.setattr(
        "aajr_hf.evaluation.robustness.evaluate.measure_trust",
        lambda target, multiple: {"steps": {"5": 0}, "unbounded": 0, "vanished": 0, "tried": 1, "examples": 1},
    )
