"""What attacks have done, in percent of the examples."""

from __future__ import annotations

from aajr_hf.evaluation.attacks.run import Tally
from aajr_hf.evaluation.robustness.tallies import tally_numbers


def test_shares_are_percents_and_counts_are_counts():
    plain = tally_numbers({"0.5": Tally(attacked=20, broken=5, left=15), "1": Tally(15, 15, 0)}, 20)
    assert plain == {
        "attacked": {"0.5": 20, "1": 15},
        "broken": {"0.5": 5, "1": 15},
        "success": {"0.5": 75.0, "1": 0.0},
    }
    exhaustive = tally_numbers({"1": Tally(20, 5, 15, alone=18)}, 40, "exact")
    assert exhaustive == {"attacked": {"1": 20}, "broken": {"1": 5}, "exact": {"1": 37.5}, "alone": {"1": 45.0}}
