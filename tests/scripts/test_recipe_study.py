"""scripts/recipe_study.py: its settings, and the arithmetic of its page."""

from __future__ import annotations

import sys

import lambda_study
import pytest
import recipe_study
import yaml
from recipe_study import CHOSEN, FINALISTS, SETTINGS, page
from shared.commands import ROOT, slug

from aajr_hf import AAJRConfig


def run(setting, seed, nominal, worst):
    return {
        "setting": setting,
        "seed": seed,
        "nominal_success": nominal,
        "sampled_success": nominal - 5,
        "worst_case_success": {"0.5": nominal, "1": worst, "1.5": worst / 2},
        "sampled_worst_case_success": {"0.5": nominal, "1": worst - 10, "1.5": 0.0},
        "amplification": 12.0,
        "train_seconds": 60.0,
    }


def test_settings_are_fields_that_training_takes():
    assert set(FINALISTS) < set(SETTINGS) and len({slug(name) for name in SETTINGS}) == len(SETTINGS)
    for recipe, fields in SETTINGS.values():
        settings = yaml.safe_load((ROOT / "recipes" / "congestion" / f"{recipe}.yaml").read_text()) | fields
        known = {name: value for name, value in settings.items() if name in AAJRConfig.__dataclass_fields__}
        assert fields.keys() <= known.keys()
        AAJRConfig(**known, use_cpu=True)


def test_the_recipe_is_the_setting_that_was_chosen():
    chosen = yaml.safe_load((ROOT / "recipes" / "congestion" / "aajr.yaml").read_text())
    # The unit of lambda is from the study after it, which tried one value for all agents.
    fields = SETTINGS[CHOSEN][1] | lambda_study.SETTINGS["AAJR, relative 0.03"][1]
    assert {name: chosen.get(name, AAJRConfig.__dataclass_fields__[name].default) for name in fields} == fields


def test_differences_are_paired_by_seed():
    adversarial, chosen = FINALISTS[0], CHOSEN
    runs = [run(adversarial, seed, 95.0, worst) for seed, worst in ((1, 40.0), (2, 80.0), (3, 60.0))]
    runs += [run(chosen, seed, 94.0, worst) for seed, worst in ((1, 50.0), (2, 92.0), (3, 71.0))]
    runs += [run(chosen, recipe_study.TUNING_SEED, 96.0, 70.0)]
    text = page(runs)
    assert f"| {chosen} | 94.0 ± 0.0 | 94.0 ± 0.0 | 71.0 ± 52.2 | 35.5 ± 26.1 |" in text
    # Of the differences 10, 12 and 11, whose interval is far narrower than that of either side.
    assert f"| {chosen} | -1.0 ± 0.0 | -1.0 ± 0.0 | 11.0 ± 2.5 | 5.5 ± 1.2 |" in text
    assert f"| {chosen} | 96.0 | 96.0 | 70.0 | 35.0 |" in text.split("on one seed")[1]


def test_unknown_settings_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe_study.py", "--settings", "nobody"])
    with pytest.raises(SystemExit, match="there is no setting 'nobody'"):
        recipe_study.main()
