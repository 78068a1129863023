"""Evaluations whose Jacobians are rough: exact ones take half of the time of a small evaluation."""

from functools import partial

import pytest

from aajr_hf.evaluation.robustness import amplification, membership


def make_rough(monkeypatch) -> None:
    """Measure by differences of two passes, and spectral norms by one power iteration."""

    def once(norm):
        return lambda *arguments, **more: norm(*arguments, **more | {"iterations": 1})

    for name in ("trajectory_amplification", "squared_amplification"):
        monkeypatch.setattr(amplification, name, partial(getattr(amplification, name), estimator="finite_difference"))
    for module in (amplification, membership):
        exact = module.spectral_norm
        monkeypatch.setattr(module, "spectral_norm", partial(once(exact), estimator="finite_difference"))


@pytest.fixture(autouse=True)
def short_amplification(monkeypatch):
    """For tests whose subject they are not; tests/evaluation/robustness compares exact ones with full Jacobians."""
    make_rough(monkeypatch)
