"""What a run's folder says of its training."""

import json
import math

import numpy as np
import pytest
import yaml

from aajr_hf.evaluation.comparison.runs import METHODS, gradient_norms, read_run
from aajr_hf.training.config.choices import CHOICES


def folder_of(path, recipe=None, history=None):
    path.mkdir(parents=True, exist_ok=True)
    if recipe is not None:
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe) if isinstance(recipe, dict) else recipe)
    if history is not None:
        (path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return path


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
        with pytest.raises(ValueError, match=r"trainer_state\.json is not a valid trainer state"):
            read_run(tmp_path)

    def test_an_unfinished_model_is_refused(self, tmp_path):
        (tmp_path / "checkpoint-is-incomplete.txt").write_text("")
        with pytest.raises(ValueError, match="is incomplete"):
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
