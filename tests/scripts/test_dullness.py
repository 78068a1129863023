"""scripts/dullness.py: what it trains, and its page."""

from __future__ import annotations

import json
import sys

import dullness
import yaml
from shared.commands import ROOT

from aajr_hf import AAJRConfig
from tests.support.studies import method_run as run


def test_settings_are_large_lambdas_with_and_without_a_floor():
    recipe = yaml.safe_load((ROOT / "recipes" / "congestion" / "aajr.yaml").read_text())
    usual, fields = recipe["regularizer_lambda"], AAJRConfig.__dataclass_fields__
    assert recipe["lambda_mode"] == "relative"
    settings = list(dullness.SETTINGS.values())
    assert all(one.keys() <= fields.keys() and one["regularizer_lambda"] >= 10 * usual for one in settings)
    assert len({tuple(one.values()) for one in settings}) == len(dullness.LAMBDAS) * len(dullness.FLOORS)


def test_a_floor_is_compared_with_none_at_the_same_lambda(tmp_path, monkeypatch):
    trained = []

    def evaluate_once(folder, agents, options):
        # With a floor, five points more without attack, and ten more under attack at the larger lambda.
        floor, large = (lambda name: "floor" in name), (lambda name: "lambda 3" in name)
        return {name: run(40.0 + 10 * (floor(name) and large(name)), 80.0 + 5 * floor(name)) for name in agents}

    monkeypatch.setattr(dullness, "train_once", lambda folder, *rest: trained.append(rest) or folder)
    monkeypatch.setattr(dullness, "evaluate_once", evaluate_once)
    monkeypatch.setattr(sys, "argv", ["dullness.py", "--work", str(tmp_path), "--output", str(tmp_path / "out")])
    dullness.main()
    assert [(recipe, seed) for recipe, _, seed, _ in trained] == [("aajr", s) for s in (1, 2, 3) for _ in range(4)]
    page = (tmp_path / "out" / "dullness.md").read_text()
    small, large = page.split("Against lambda 3,")
    assert "| lambda 0.3, floor 20 | +5.0 ± 0.0 | +5.0 ± 0.0 | +0.0 ± 0.0 | is not seen to differ |" in small
    assert "| lambda 3, floor 20 | +5.0 ± 0.0 | +5.0 ± 0.0 | +10.0 ± 0.0 | helps |" in large
    assert len(json.loads((tmp_path / "out" / "dullness.json").read_text())) == 12
