"""Intervals and tests against textbooks, scipy, brute force and the coverage that they promise."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aajr_hf.evaluation.reporting.statistics import (
    PairedDifference,
    mcnemar,
    paired_bootstrap,
    paired_difference,
    paired_interval,
    wilson,
    with_intervals,
)

outcomes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=11)


def discordant(more, less, agreed=0):
    """Outcomes of two agents, of which one alone is right in `more` and the other alone in `less` examples."""
    return [1] * more + [0] * less + [1] * agreed, [0] * more + [1] * less + [1] * agreed


class TestWilson:
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    @pytest.mark.parametrize(
        ("right", "n", "low", "high"),
        [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
    )
    def test_the_textbook(self, right, n, low, high):
        assert wilson(100 * right / n, n) == pytest.approx((low, high), abs=0.006)

    @given(st.integers(1, 2000), st.data())
    def test_scipy(self, n, data):
        right = data.draw(st.integers(0, n))
        oracle = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(100 * right / n, n) == pytest.approx((100 * oracle.low, 100 * oracle.high), abs=1e-9)

    def test_the_ends_stay_within_0_and_100(self):
        assert all(wilson(100.0, n)[1] == 100.0 and wilson(0.0, n)[0] == 0.0 for n in range(1, 500))
        assert wilson(50.0, 0) == (0.0, 100.0)

    @pytest.mark.parametrize("n", [64, 256])
    @pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
    def test_covers_the_truth_about_19_times_in_20(self, n, share):
        draws = np.random.default_rng(0).binomial(n, share, size=4000)
        inside = [low <= 100 * share <= high for low, high in (wilson(100 * k / n, n) for k in draws)]
        assert 0.925 <= np.mean(inside) <= 0.98

    def test_a_run_gets_one_for_each_share(self):
        run = {"examples": 20, "nominal_success": 0.0, "worst_case_success": {"0.5": 100.0}, "nominal_cost": 1.0}
        found = with_intervals(run)
        assert found["intervals"] == {
            "nominal_success": list(wilson(0.0, 20)),
            "worst_case_success": {"0.5": list(wilson(100.0, 20))},
        }
        assert "intervals" not in run and found["nominal_cost"] == 1.0
        calls = with_intervals({"examples": 9, "nominal_exact": 5.0, "worst_case_valid": {"1": 2.0}})["intervals"]
        assert set(calls) == {"nominal_exact", "worst_case_valid"}
        decodings = [f"{when}_success" for when in ("nominal", "sampled", "worst_case", "sampled_worst_case")]
        shares = {*decodings, *(f"{when}_{kind}" for when in ("nominal", "worst_case") for kind in ("valid", "exact"))}
        whole = with_intervals({"examples": 9, "worst_case_cost": {"1": 2.0}} | dict.fromkeys(shares, 5.0))
        assert set(whole["intervals"]) == shares


class TestMcNemar:
    def test_the_textbook(self):
        # Fagerland, Lydersen and Laake (2013), table I: 1 against 7 of 21 pairs, exact conditional p = 0.0703.
        assert mcnemar(*discordant(1, 7, 13)) == pytest.approx(0.0703, abs=5e-5)
        assert mcnemar(*discordant(0, 0, 5)) == 1.0

    @given(outcomes)
    def test_all_sign_flips(self, pairs):
        difference = np.array([a - b for a, b in pairs])
        flips = np.array(list(product((-1, 1), repeat=len(pairs)))) @ difference
        share = (abs(flips) >= abs(difference.sum())).mean()
        assert mcnemar(*zip(*pairs, strict=True)) == pytest.approx(share)

    def test_swapping_the_agents_changes_nothing(self):
        a, b = discordant(9, 2, 40)
        assert mcnemar(a, b) == mcnemar(b, a) < 0.07

    def test_refuses_what_is_not_paired_or_not_0_or_1(self):
        with pytest.raises(ValueError, match="got 2 and 1"):
            mcnemar([0, 1], [1])
        with pytest.raises(ValueError, match="0 or 1"):
            mcnemar([0.5], [1.0])


class TestPairedBootstrap:
    def test_scipy(self):
        rng = np.random.default_rng(1)
        a, b = rng.uniform(size=(2, 80))
        oracle = stats.bootstrap((a - b,), np.mean, n_resamples=40_000, method="percentile").confidence_interval
        assert paired_bootstrap(a, b) == pytest.approx((100 * oracle.low, 100 * oracle.high), abs=0.6)

    def test_is_deterministic_and_seeded(self):
        a, b = np.random.default_rng(2).uniform(size=(2, 30))
        assert paired_bootstrap(a, b) == paired_bootstrap(a, b) != paired_bootstrap(a, b, seed=1)

    def test_pairs_tell_more_than_independent_examples(self):
        easy = np.linspace(0, 1, 100)
        low, high = paired_bootstrap(0.9 * easy + 0.1, 0.9 * easy)
        assert (low, high) == pytest.approx((10, 10))

    def test_covers_the_truth_about_19_times_in_20(self):
        rng, inside = np.random.default_rng(3), []
        for _ in range(400):
            ease = rng.uniform(size=64)
            a, b = np.clip([ease + rng.normal(0.1, 0.2, 64), ease + rng.normal(0, 0.2, 64)], -1, 2)
            low, high = paired_bootstrap(a, b)
            inside.append(low <= 10 <= high)
        assert 0.91 <= np.mean(inside) <= 0.98


class TestPairedInterval:
    def test_the_formula(self):
        # 1 against 7 of 21 pairs, as 2 against 8 of 23: Wald's interval of the difference of two multinomial shares.
        ours, theirs = 2 / 23, 8 / 23
        half = 1.959964 * ((ours + theirs - (ours - theirs) ** 2) / 23) ** 0.5
        expected = 100 * (ours - theirs - half), 100 * (ours - theirs + half)
        assert paired_interval(*discordant(1, 7, 13)) == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("n", [64, 256])
    @pytest.mark.parametrize(("more", "less"), [(0.1, 0.1), (0.2, 0.05), (0.06, 0.03)])
    def test_covers_the_truth_about_19_times_in_20(self, n, more, less):
        rng, inside = np.random.default_rng(0), []
        for wins, losses, _ in rng.multinomial(n, (more, less, 1 - more - less), size=2000):
            low, high = paired_interval(*discordant(wins, losses, n - wins - losses))
            inside.append(low <= 100 * (more - less) <= high)
        assert 0.935 <= np.mean(inside) <= 0.995

    def test_agents_that_agree_everywhere_can_still_differ(self):
        low, high = paired_interval(*discordant(0, 0, 10))
        assert low == -high < -20 and paired_interval(*discordant(3, 0))[1] == 100.0
        assert paired_interval(*discordant(0, 3))[0] == -100.0


class TestPairedDifference:
    def test_shares_are_tested_and_probabilities_resampled(self):
        a, b = discordant(12, 2, 50)
        found = paired_difference(a, b)
        assert found == PairedDifference(pytest.approx(1000 / 64), *paired_interval(a, b), mcnemar(a, b))
        means = paired_difference([0.5, *a], [0.0, *b])
        assert (means.lo, means.hi) == paired_bootstrap([0.5, *a], [0.0, *b]) and means.p is None

    def test_swapping_the_agents_swaps_the_sign(self):
        a, b = discordant(12, 2, 50)
        one, other = paired_difference(a, b), paired_difference(b, a)
        assert (one.points, one.lo, one.hi, one.sign) == (-other.points, -other.hi, -other.lo, -other.sign)
        assert one.sign == 1

    @pytest.mark.parametrize(("wins", "losses"), [(5, 0), (9, 2), (12, 4)])
    def test_what_chance_explains_has_no_sign(self, wins, losses):
        assert paired_difference(*discordant(wins, losses, 200)).sign == 0
        assert paired_difference(*discordant(wins + 5, losses, 200)).sign == 1

    @pytest.mark.parametrize(("lo", "hi", "sign"), [(1.0, 9.0, 1), (-9.0, -1.0, -1), (-1.0, 9.0, 0), (-9.0, 1.0, 0)])
    def test_the_test_says_who_is_ahead_and_without_one_the_interval(self, lo, hi, sign):
        assert PairedDifference((lo + hi) / 2, lo, hi, None).sign == sign
        # Where there is one, it says so, whatever the interval.
        assert PairedDifference((lo + hi) / 2, lo, hi, 0.051).sign == 0
        assert PairedDifference((lo + hi) / 2, lo, hi, 0.049).sign == (1 if lo + hi > 0 else -1)

    def test_reads_as_a_sentence(self):
        assert PairedDifference(12.5, 4.12, 20.3, 0.0041).text() == "12.5 points more (95 %: 4.1 to 20.3; p = 0.004)"
        assert PairedDifference(-3.0, -7.5, 1.5, None).text() == "3.0 points less (95 %: -1.5 to 7.5)"
        assert PairedDifference(-0.01, -9.0, 9.0, 1e-9).text() == "0.0 points more (95 %: -9.0 to 9.0; p < 0.001)"

    def test_refuses_no_examples(self):
        with pytest.raises(ValueError, match="at least 1; got 0 and 0"):
            paired_difference([], [])
