"""Evaluations whose checks of trust are short."""

import pytest

from aajr_hf.evaluation.robustness import trust


@pytest.fixture(autouse=True)
def short_trust(request, monkeypatch):
    """The checks of trust take a few steps; an evaluation of a few examples would mostly run these checks."""
    if "trust" not in request.module.__name__:
        monkeypatch.setattr(trust, "STEPS", (1, 2, 4))
        monkeypatch.setattr(trust, "_UNBOUNDED_STEPS", 4)
