"""Results of four agents for the tests of reports and plots."""

import pytest

from ..support.results import as_results, make_run, make_stability
from ..support.short_trust import short_trust  # noqa: F401


@pytest.fixture
def results():
    base = make_run(100.0, 97.3, (59.2, 41.1, 29.3), amplification=155.0)
    del base["train_seconds"]
    return as_results(
        {
            "base": base,
            "sft": make_run(99.9, 98.1, (58.2, 40.1, 28.3), amplification=161.0, seconds=400.0),
            "adversarial": make_run(99.6, 94.4, (67.2, 62.0, 49.2), amplification=117.0, seconds=1200.0),
            "aajr": make_run(81.3, 72.6, (78.1, 74.7, 70.1), amplification=4.03, seconds=3000.0),
        }
    )


@pytest.fixture
def stable_results(results):
    """The same, with the stability of two of the four."""
    results["runs"]["adversarial"]["stability"] = make_stability(1.0)
    results["runs"]["aajr"]["stability"] = make_stability(0.5, within=(100.0, 100.0, 100.0))
    return results
