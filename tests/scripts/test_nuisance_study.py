"""scripts/nuisance_study.py: what it trains, its page and its figure."""

from __future__ import annotations

import json
import sys

import nuisance_study
import yaml

from aajr_hf import AAJRConfig
from tests.support.studies import method_run


def test_settings_are_kinds_of_directions_over_ranks_at_a_larger_lambda():
    recipe = yaml.safe_load((nuisance_study.ROOT / "recipes" / "congestion" / "methods" / "matched.yaml").read_text())
    assert recipe["lambda_mode"] == "relative" and recipe["regularizer_lambda"] < nuisance_study.WEIGHT
    settings = list(nuisance_study.SETTINGS.values())
    assert all(one.keys() <= AAJRConfig.__dataclass_fields__.keys() for one in settings)
    assert settings[-1] == {"regularizer": "random_direction"} and recipe["regularizer"] == "matched"
    kinds, ranks = nuisance_study.NUISANCES, nuisance_study.RANKS
    assert [tuple(one.values()) for one in settings[:-1]] == [(kind, rank) for kind in kinds for rank in ranks]


def test_kinds_are_compared_at_equal_rank(tmp_path, monkeypatch):
    trained = []

    def run(name):
        # Directions to other answers cost ten points without attack at rank 64, and a larger rank leaves less drift.
        rank = int(name.rsplit(" ", 1)[-1]) if "rank" in name else 128
        subspaces = {"variants": {"drift": 64.0 / rank}, "ascents": {"drift": 99.0}}
        measured = {"dimensions": 128, "subspaces": subspaces}
        return method_run(50.0, 80.0 - 10 * (name == "answers, rank 64")) | {"nuisance": measured}

    def evaluate_once(folder, agents, options):
        assert "--nuisance" in options
        return {name: run(name) for name in agents}

    monkeypatch.setattr(nuisance_study, "train_once", lambda folder, *rest: trained.append(rest) or folder)
    monkeypatch.setattr(nuisance_study, "evaluate_once", evaluate_once)
    monkeypatch.setattr(sys, "argv", ["nuisance_study.py", "--work", str(tmp_path), "--output", str(tmp_path / "out")])
    nuisance_study.main()
    assert [(recipe, seed) for recipe, _, seed, _ in trained] == [
        ("methods/matched", s) for s in (1, 2, 3) for _ in range(10)
    ]
    assert {fields["regularizer_lambda"] for _, fields, _, _ in trained} == {nuisance_study.WEIGHT}
    assert {steps for *_, steps in trained} == {nuisance_study.STEPS}
    page = (tmp_path / "out" / "nuisance.md").read_text()
    assert "| answers, rank 64 | -10.0 ± 0.0 | -10.0 ± 0.0 | +0.0 ± 0.0 | is not seen to differ |" in page
    assert "| answers, rank 16 | +0.0 ± 0.0 | +0.0 ± 0.0 |" in page
    assert "| random, rank 4 | 16.0 ± 0.0 |" in page and "| isotropic | 0.5 ± 0.0 |" in page
    assert len(json.loads((tmp_path / "out" / "nuisance.json").read_text())) == 30
    assert (tmp_path / "out" / "nuisance.png").read_bytes().startswith(b"\x89PNG")
