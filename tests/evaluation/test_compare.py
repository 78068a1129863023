"""What a run's folder says of its training, and what follows from several of them."""

import json
import math

import numpy as np
import pytest
import yaml

from aajr_hf.evaluation.compare import METHODS, compare, gradient_norms, read_run
from aajr_hf.training.config import CHOICES

from .conftest import make_run


def folder_of(path, recipe=None, history=None):
    path.mkdir(parents=True, exist_ok=True)
    if recipe is not None:
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe) if isinstance(recipe, dict) else recipe)
    if history is not None:
        (path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return path


def described(method="aajr", strength=1e-3, epsilon=0.25, seed=0, **recipe):
    settings = None if method == "base" else recipe
    strength = None if method in METHODS[:3] else strength
    run = {"method": method, "regularizer_lambda": strength, "epsilon": epsilon, "seed": seed, "recipe": settings}
    return run | {"gradient_norm": None}


class TestReadRun:
    @pytest.mark.parametrize(
        ("recipe", "expected"),
        [
            ({}, ("aajr", 1e-3, 0.25, 42)),
            ({"epsilon": 0.0, "regularizer": "none"}, ("sft", None, 0.0, 42)),
            ({"epsilon": 0.0, "regularizer_lambda": 0}, ("sft", None, 0.0, 42)),
            ({"regularizer": "none", "seed": 3}, ("adversarial", None, 0.25, 3)),
            ({"regularizer_lambda": 0.0, "epsilon": 0.1}, ("adversarial", None, 0.1, 42)),
            ({"amplification_budget": 5.0, "regularizer_lambda": 0.0}, ("aajr", None, 0.25, 42)),
            ({"regularizer": "global_spectral", "regularizer_lambda": "6e-4"}, ("global_spectral", 6e-4, 0.25, 42)),
        ],
    )
    def test_method_and_numbers_with_defaults(self, tmp_path, recipe, expected):
        run = read_run(folder_of(tmp_path, recipe))
        assert tuple(run[field] for field in ("method", "regularizer_lambda", "epsilon", "seed")) == expected
        assert run["gradient_norm"] is None

    def test_an_agent_without_a_recipe_is_a_base(self, tmp_path):
        run = read_run(tmp_path)
        assert (run["method"], run["epsilon"], run["seed"], run["recipe"]) == ("base", None, None, None)

    def test_where_a_run_is_stored_is_not_what_it_is(self, tmp_path):
        aside = {"output_dir": "x", "seed": 1, "logging_steps": 7, "save_strategy": "no", "use_cpu": True}
        recipe = aside | {"max_steps": 5, "penalty_fraction": 1.0, "environment": "congestion"}
        assert read_run(folder_of(tmp_path, recipe))["recipe"] == {"max_steps": 5, "environment": "congestion"}

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            ({"epsilon": "wide"}, "`epsilon` must be a finite number; got 'wide'"),
            ({"regularizer_lambda": math.nan}, "`regularizer_lambda`"),
            ({"regularizer": "magic"}, "`regularizer` must be one of"),
            ("- 1", "is not a mapping"),
            ("a: [", "recipe.yaml cannot be read"),
        ],
    )
    def test_a_damaged_recipe_is_named(self, tmp_path, recipe, message):
        with pytest.raises(ValueError, match="recipe.yaml") as error:
            read_run(folder_of(tmp_path, recipe))
        assert message in str(error.value)

    @pytest.mark.parametrize("state", ["{", "[]", "{}", '{"log_history": [{"grad_norm": "x", "step": 1}]}'])
    def test_a_damaged_state_is_named(self, tmp_path, state):
        (tmp_path / "trainer_state.json").write_text(state)
        with pytest.raises(ValueError, match=r"trainer_state\.json is no state"):
            read_run(tmp_path)

    def test_an_unfinished_model_is_refused(self, tmp_path):
        (tmp_path / "checkpoint-is-incomplete.txt").write_text("")
        with pytest.raises(ValueError, match="not written to its end"):
            read_run(tmp_path)

    def test_every_regularizer_has_a_place(self):
        assert set(METHODS) == {"base", "sft", "adversarial", *CHOICES["regularizer"]} - {"none"}


class TestGradientNorms:
    def test_variance_over_intervals_of_unequal_length_is_that_of_all_steps(self):
        norms = np.random.default_rng(0).lognormal(1.0, 0.8, size=25)
        ends = [10, 20, 25]
        history = [
            {
                "step": end,
                "grad_norm": float(norms[end - 1]),
                "aajr/gradient_norm": float(part.mean()),
                "aajr/gradient_norm_squared": float((part**2).mean()),
            }
            for end, part in zip(ends, np.split(norms, ends[:-1]), strict=True)
        ]
        found = gradient_norms([{"step": 5, "eval_loss": 1.0}, *history, {"step": 25, "train_loss": 1.0}])
        assert found["every_step"] and found["values"] == 25 and found["left_out"] == 0
        assert found["mean"] == pytest.approx(norms.mean())
        assert found["variance"] == pytest.approx(norms.var())
        assert found["coefficient_of_variation"] == pytest.approx(norms.std() / norms.mean())
        assert [step for step, _, _ in found["curve"]] == ends
        assert found["curve"][0][2] == pytest.approx(norms[:10].std())

    def test_logged_norms_stand_in_and_say_so(self):
        found = gradient_norms([{"step": step, "grad_norm": norm} for step, norm in ((1, 1.0), (100, 3.0))])
        assert (found["mean"], found["variance"], found["values"], found["every_step"]) == (2.0, 1.0, 2, False)
        assert found["curve"] == [[1, 1.0, None], [100, 3.0, None]]

    def test_norms_that_are_not_finite_are_counted(self):
        history = [{"step": i, "grad_norm": norm} for i, norm in enumerate((1.0, math.nan, 3.0, math.inf), 1)]
        found = gradient_norms(history)
        assert (found["mean"], found["values"], found["left_out"]) == (2.0, 2, 2)

    def test_none_without_norms(self):
        assert gradient_norms([{"step": 1, "loss": 1.0}]) is None
        assert gradient_norms([{"step": 1, "grad_norm": math.nan}]) is None

    def test_equal_norms_have_no_variance(self):
        found = gradient_norms([{"step": i, "grad_norm": 0.1} for i in range(1, 8)])
        assert found["variance"] == pytest.approx(0, abs=1e-15) and found["variance"] >= 0
        assert gradient_norms([{"step": 1, "grad_norm": 0.0}])["coefficient_of_variation"] is None


def compared(runs):
    """A comparison from `name -> (description, nominal, worst at 2x)`; sampled success is 10 below the greedy one."""
    results = {
        "runs": {
            name: make_run(nominal, nominal - 10, (nominal, nominal, worst))
            for name, (_, nominal, worst) in runs.items()
        },
        "train_epsilon": 0.25,
        "settings": {"examples": 512},
    }
    return compare(results, {name: description for name, (description, _, _) in runs.items()})


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
        assert mean["worst_case_success"]["2"] == 65.0 and mean["sampled_worst_case_success"]["2"] == 60.0
        assert mean["price"]["greedy"] == 5.0

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
        entry = next(e for e in found["matched"] if (e["multiple"], e["decoding"]) == ("2", "greedy"))
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
        entry = next(e for e in found["matched"] if (e["multiple"], e["decoding"]) == ("2", "greedy"))
        assert entry["at_worst_case"]["runs"] == ["strong", "adversarial"]

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
        results = {"runs": {"a": make_run(1, 1, (1, 1, 1))}, "train_epsilon": 0.25, "settings": {}}
        results["runs"]["a"]["spectral_norm"] = None
        with pytest.raises(ValueError, match="'a', field 'spectral_norm'"):
            compare(results, {"a": described()})
