"""The price of robustness against brute force and invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.evaluation.comparison.trade_off import matched, nominal_at, price_of_robustness, worst_at

# Few values, so that points and levels are often equal.
percents = st.integers(0, 10).map(lambda tenth: 10.0 * tenth)
point = st.tuples(percents, percents)
points = st.lists(point, min_size=1, max_size=6)


def brute_force(points, level, given, wanted):
    best = None
    for candidate in points:
        if candidate[given] < level:
            continue
        if best is None or candidate[wanted] > best:
            best = candidate[wanted]
    return best


class TestSteps:
    @pytest.mark.slow
    @given(points, percents)
    def test_brute_force(self, points, level):
        assert nominal_at(points, level) == brute_force(points, level, 1, 0)
        assert worst_at(points, level) == brute_force(points, level, 0, 1)

    @given(points, percents, percents)
    def test_falls_with_the_level_and_never_beats_the_best(self, points, one, other):
        for function, index in ((nominal_at, 0), (worst_at, 1)):
            low, high = function(points, min(one, other)), function(points, max(one, other))
            assert high is None or low >= high
            assert low is None or low <= max(point[index] for point in points)
            assert function(points, 0.0) == max(point[index] for point in points)

    @given(points, point, percents)
    def test_one_more_run_never_lowers_it(self, points, more, level):
        for function in (nominal_at, worst_at):
            before, after = function(points, level), function([*points, more], level)
            assert before is None or after >= before

    def test_between_runs_nothing_is_interpolated(self):
        runs = [(100.0, 40.0), (80.0, 70.0)]
        assert [nominal_at(runs, level) for level in (40, 40.1, 70, 70.1)] == [100, 80, 80, None]
        assert [worst_at(runs, level) for level in (80, 80.1, 100, 100.1)] == [70, 40, 40, None]


class TestMatched:
    def test_the_numbers_of_an_example(self):
        ours, theirs = [(97.0, 67.0), (90.0, 76.0)], [(98.0, 56.0), (96.0, 63.0)]
        found = matched(ours, theirs)
        assert found.worst == 63.0 and found.nominal_at_worst == (97.0, 96.0)
        assert found.nominal == 97.0 and found.worst_at_nominal == (67.0, 56.0)

    @given(points, points)
    def test_levels_are_the_highest_that_both_reach(self, ours, theirs):
        found = matched(ours, theirs)
        levels = sorted({worst for _, worst in ours + theirs})
        reached = [level for level in levels if all(nominal_at(p, level) is not None for p in (ours, theirs))]
        assert found.worst == reached[-1]
        assert found.nominal_at_worst == (nominal_at(ours, found.worst), nominal_at(theirs, found.worst))
        flipped = [[(worst, nominal) for nominal, worst in side] for side in (ours, theirs)]
        mirrored = matched(*flipped)
        assert (found.nominal, found.worst_at_nominal) == (mirrored.worst, mirrored.nominal_at_worst)

    @given(points, points)
    def test_swapping_the_methods_swaps_the_numbers(self, ours, theirs):
        one, other = matched(ours, theirs), matched(theirs, ours)
        assert one.worst == other.worst and one.nominal == other.nominal
        assert one.nominal_at_worst == other.nominal_at_worst[::-1]
        assert one.worst_at_nominal == other.worst_at_nominal[::-1]

    def test_needs_runs_of_both(self):
        with pytest.raises(ValueError, match="at least one point"):
            matched([], [(1.0, 1.0)])


def test_price_is_what_is_given_up():
    assert price_of_robustness(100.0, 96.5) == 3.5 and price_of_robustness(95.0, 96.0) == -1.0
