"""What follows from several runs side by side."""

import pytest

from aajr_hf.evaluation.comparison.compare import compare
from aajr_hf.evaluation.comparison.runs import METHODS
from aajr_hf.evaluation.reporting.statistics import PairedDifference, paired_difference
from tests.support.results import as_results, make_run


def described(method="aajr", strength=1e-3, epsilon=0.25, seed=0, **recipe):
    settings = None if method == "base" else recipe
    strength = None if method in METHODS[:3] else strength
    run = {"method": method, "regularizer_lambda": strength, "epsilon": epsilon, "seed": seed, "recipe": settings}
    return run | {"gradient_norm": None}


def compared(runs):
    """A comparison from `name -> (description, nominal, worst at 1x)`; sampled success is 10 below the greedy one."""
    numbers = {
        name: make_run(nominal, nominal - 10, (nominal, nominal, worst)) for name, (_, nominal, worst) in runs.items()
    }
    return compare(
        as_results(numbers, train_epsilon=0.25), {name: description for name, (description, _, _) in runs.items()}
    )


class TestCompare:
    def test_prices_are_against_the_best_run_without_a_penalty(self):
        runs = compared(
            {
                "aajr": (described(), 96.0, 70.0),
                "adversarial": (described("adversarial"), 97.0, 60.0),
                "sft": (described("sft", epsilon=0.0), 99.0, 30.0),
            }
        )
        assert runs["best_unregularised"]["greedy"] == {"label": "sft", "nominal": 99.0}
        assert {name: run["price"]["greedy"] for name, run in runs["runs"].items()} == {
            "sft": 0.0,
            "adversarial": 2.0,
            "aajr": 3.0,
        }
        assert runs["runs"]["aajr"]["price"]["sampled"] == 3.0
        assert list(runs["runs"]) == ["sft", "adversarial", "aajr"]

    def test_without_such_a_run_there_is_no_price(self):
        found = compared({"a": (described(), 96.0, 70.0), "b": (described("global_spectral"), 97.0, 60.0)})
        assert found["runs"]["a"]["price"] == {"greedy": None, "sampled": None}
        assert found["matched"][0]["at_worst_case"]["price"] == [None, None]

    def test_seeds_are_averaged_and_nothing_else_is(self):
        found = compared(
            {
                "one": (described(seed=0), 96.0, 70.0),
                "two": (described(seed=1), 92.0, 60.0),
                "longer": (described(seed=0, max_steps=9), 94.0, 80.0),
                "wider": (described(epsilon=0.5), 90.0, 75.0),
                "base": (described("base", epsilon=None, seed=None), 99.0, 20.0),
                "other": (described("base", epsilon=None, seed=None), 98.0, 30.0),
            }
        )
        groups = {tuple(c["runs"]): c for c in found["configurations"]}
        assert set(groups) == {("base",), ("other",), ("one", "two"), ("longer",), ("wider",)}
        mean = groups["one", "two"]
        assert mean["label"] == "one (2 seeds)" and mean["nominal_success"] == 94.0
        assert mean["worst_case_success"]["1"] == 65.0 and mean["sampled_worst_case_success"]["1"] == 60.0
        assert mean["price"]["greedy"] == 5.0
        one, two = (found["runs"][name]["outcomes"]["worst_case_success"]["1"] for name in ("one", "two"))
        assert mean["outcomes"]["worst_case_success"]["1"] == [(a + b) / 2 for a, b in zip(one, two, strict=True)]
        assert groups["base",]["outcomes"]["nominal_success"] == found["runs"]["base"]["outcomes"]["nominal_success"]

    def test_matched_names_the_runs_whose_numbers_it_gives(self):
        found = compared(
            {
                "weak": (described(strength=1e-4), 97.0, 67.0),
                "strong": (described(strength=1e-2), 90.0, 76.0),
                "narrow": (described("adversarial", epsilon=0.1), 98.0, 56.0),
                "wide": (described("adversarial"), 96.0, 63.0),
            }
        )
        assert len(found["matched"]) == 6
        entry = next(e for e in found["matched"] if (e["multiple"], e["decoding"]) == ("1", "greedy"))
        assert entry["methods"] == ["aajr", "adversarial"]
        robust, nominal = entry["at_worst_case"], entry["at_nominal"]
        assert (robust["level"], robust["nominal"], robust["runs"]) == (63.0, [97.0, 96.0], ["weak", "wide"])
        assert robust["price"] == [1.0, 2.0]
        assert (nominal["level"], nominal["worst_case"], nominal["runs"]) == (97.0, [67.0, 56.0], ["weak", "narrow"])

    def test_a_run_of_the_same_number_that_does_not_reach_the_level_is_not_named(self):
        runs = {"weak": (1e-4, 50.0), "strong": (1e-2, 70.0)}
        found = compared(
            {name: (described(strength=strength), 97.0, worst) for name, (strength, worst) in runs.items()}
            | {"adversarial": (described("adversarial"), 96.0, 63.0)}
        )
        entry = next(e for e in found["matched"] if (e["multiple"], e["decoding"]) == ("1", "greedy"))
        assert entry["at_worst_case"]["runs"] == ["strong", "adversarial"]

    def test_differences_are_those_of_the_runs_whose_numbers_are_shown(self):
        found = compared(
            {
                "weak": (described(strength=1e-4), 97.0, 67.0),
                "strong": (described(strength=1e-2, seed=0), 90.0, 76.0),
                "strong1": (described(strength=1e-2, seed=1), 91.0, 78.0),
                "adversarial": (described("adversarial"), 91.0, 70.0),
            }
        )
        runs = {name: run["outcomes"] for name, run in found["runs"].items()}
        greedy, sampled = (e for e in found["matched"] if e["multiple"] == "1")
        assert greedy["at_worst_case"]["runs"] == ["strong (2 seeds)", "adversarial"]
        mean = [(a + b) / 2 for a, b in zip(*(runs[n]["nominal_success"] for n in ("strong", "strong1")), strict=True)]
        expected = paired_difference(mean, runs["adversarial"]["nominal_success"])
        assert PairedDifference(**greedy["at_worst_case"]["difference"]) == expected and expected.p is None
        assert greedy["at_nominal"]["runs"] == ["weak", "adversarial"]
        worst = [runs[name]["worst_case_success"]["1"] for name in ("weak", "adversarial")]
        assert PairedDifference(**greedy["at_nominal"]["difference"]) == paired_difference(*worst)
        assert 0 < greedy["at_nominal"]["difference"]["p"] < 1
        worst = [runs[name]["sampled_worst_case_success"]["1"] for name in ("weak", "adversarial")]
        assert PairedDifference(**sampled["at_nominal"]["difference"]) == paired_difference(*worst)

    def test_what_was_measured_how_is_kept(self):
        found = compared({"a": (described(), 96.0, 70.0), "b": (described("adversarial"), 97.0, 60.0)})
        assert found["version"] == 2 and found["threat_model"]["perturbation_norm"] == "l2"
        assert all(run["trust"] and run["attacks"] for run in found["runs"].values())

    def test_without_aajr_the_most_robust_method_is_compared(self):
        found = compared(
            {
                "sft": (described("sft", epsilon=0.0), 99.0, 30.0),
                "global": (described("global_spectral"), 97.0, 60.0),
                "adversarial": (described("adversarial"), 97.0, 50.0),
            }
        )
        assert [entry["methods"] for entry in found["matched"]][::6] == [
            ["global_spectral", "adversarial"],
            ["global_spectral", "sft"],
        ]

    def test_settings_that_differ_are_listed_where_they_apply(self):
        found = compared(
            {
                "base": (described("base", epsilon=None, seed=None), 99.0, 20.0),
                "sft": (described("sft", epsilon=0.0, max_steps=5), 99.0, 30.0),
                "adversarial": (described("adversarial", max_steps=5, clean_loss_weight=1.0), 97.0, 50.0),
                "aajr": (described(max_steps=9, clean_loss_weight=1.0, penalty_fraction=0.5), 97.0, 60.0),
            }
        )
        assert found["differing_settings"] == {"max_steps": [5, 9]}

    def test_a_number_that_is_absent_is_named(self):
        results = as_results({"a": make_run(1, 1, (1, 1, 1))})
        results["runs"]["a"]["spectral_norm"] = None
        with pytest.raises(ValueError, match="'a', field 'spectral_norm'"):
            compare(results, {"a": described()})
