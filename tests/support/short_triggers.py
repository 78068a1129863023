"""Searches for triggers with little effort: they take half of the time of an evaluation that has them among its attacks."""

from dataclasses import replace

import pytest

from aajr_hf.evaluation.attacks.suite import TEXT_ATTACKS
from aajr_hf.evaluation.attacks.trigger_search import Effort


@pytest.fixture(autouse=True)
def short_triggers(monkeypatch):
    """For tests whose subject they are not; tests/evaluation/attacks/test_trigger.py searches."""
    little = replace(TEXT_ATTACKS["trigger"], length=1, effort=Effort(candidates=1, beam=1, rounds=1, starts=1))
    monkeypatch.setitem(TEXT_ATTACKS, "trigger", little)
