"""Evaluations whose spectral norms are of one power iteration: they take two fifths of the time of a small evaluation."""

import functools

import pytest

from aajr_hf.evaluation.robustness import amplification, membership


@pytest.fixture(autouse=True)
def short_norms(monkeypatch):
    """For tests whose subject they are not; tests/evaluation/robustness compares them with full Jacobians."""

    def once(norm):
        return functools.wraps(norm)(lambda *arguments, **more: norm(*arguments, **more | {"iterations": 1}))

    for module in (amplification, membership):
        monkeypatch.setattr(module, "spectral_norm", once(module.spectral_norm))
