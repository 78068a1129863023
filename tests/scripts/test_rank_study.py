"""scripts/rank_study.py: the way from agents to the page, and its arithmetic."""

from __future__ import annotations

import functools
import json

import pytest
import rank_study
from rank_study import climb
from rank_study_report import write_report

from aajr_hf.evaluation.attacks.settings import RobustnessSettings
from tests.support.short_amplification import short_amplification  # noqa: F401
from tests.support.short_trust import short_trust  # noqa: F401

FIELDS = {
    "adapter",
    "rank",
    "seed",
    "trainable_parameters",
    "nominal_success",
    "worst_case_success",
    "amplification",
    "update_rank",
}


def run(adapter, rank, seed, worst, parameters=1000, rate=1e-3):
    return {
        "adapter": adapter,
        "rank": rank,
        "seed": seed,
        "learning_rate": rate,
        "trainable_parameters": parameters,
        "nominal_success": 90.0,
        "worst_case_success": worst,
        "sampled_worst_case_success": worst - 5,
        "amplification": 10.0,
        "update_rank": 4.0,
        "train_seconds": 80.0,
    }


def test_the_page_compares_seed_by_seed_at_equal_parameters(tmp_path):
    runs = [run("full", None, seed, 70 + 10 * seed, 50_000) for seed in (0, 1, 2)]
    runs += [run("lora", 1, seed, 50 + 10 * seed) for seed in (0, 1, 2)]
    runs += [run("lora", 8, seed, 69 + 10 * seed + (-1) ** seed, 8_000) for seed in (0, 1, 2)]
    runs += [run("oft", 8, seed, 60 + 10 * seed, 7_900) for seed in (0, 1, 2)]
    write_report(runs, [], tmp_path)
    assert json.loads((tmp_path / "rank.json").read_text()) == runs
    assert (tmp_path / "rank.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "rank.md").read_text()
    assert "| lora 1 | 1,000 | 0.001 | 90.0 ± 0.0 | 60.0 ± 24.8 |" in page
    assert "full against lora 8 +0.7 ± 2.9: no difference is shown." in page
    assert "oft 8 against lora 8 -9.3 ± 2.9: the claim fails." in page
    assert "lora 8 against lora 1 +19.3 ± 2.9: the claim holds." in page


@pytest.mark.parametrize(
    ("worst", "tried"),
    [((50, 40, 30, 20), [40, 30, 50]), ((30, 60, 50, 70), [60, 50, 30]), ((1, 2, 4, 3), [2, 4, 3]), ((7,), [7])],
)
def test_rates_are_tried_towards_the_better_ones(worst, tried):
    results = [run("lora", 1, 100, value, rate=rate) for rate, value in enumerate(worst)]
    found = climb(range(len(worst)), lambda rate: results[rate])
    assert [result["worst_case_success"] for result in found] == tried


@pytest.mark.slow
def test_from_agents_to_the_page_and_nothing_twice(tmp_path, monkeypatch, capsys):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    tuning, final = (rank_study.Run("lora:2", seed, 1e-3) for seed in (rank_study.TUNING_SEED, 0))
    monkeypatch.setattr(rank_study, "PENALTY", rank_study.PENALTY | {"environment_examples": 8})
    few = functools.partial(RobustnessSettings, attacks=("nll",), attack_steps=1)
    monkeypatch.setattr("aajr_hf.evaluation.attacks.settings.RobustnessSettings", few)
    # As in a process of its own; once for both.
    rank_study.train_and_measure(final, work, 2, 4)
    measured = json.loads((work / f"{final.label}.json").read_text())
    (work / f"{tuning.label}.json").write_text(json.dumps(measured | {"seed": rank_study.TUNING_SEED}))
    made = [file.stat().st_mtime_ns for file in work.glob("lora*.json")]
    settings = ["--adapters", "lora:2", "--seeds", "0", "--rates", "1e-3", "--max_steps", "2", "--examples", "4"]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["rank_study.py", *settings, "--work", str(work), "--output", str(out)])
    rank_study.main()
    assert capsys.readouterr().out.count("lora-2-0.001-") == 2
    results, tried = (json.loads((out / f"{name}.json").read_text()) for name in ("rank", "rank_tuning"))
    assert [(r["adapter"], r["rank"], r["seed"]) for r in results] == [("lora", 2, 0)]
    assert set(results[0]) >= FIELDS and tried[0]["seed"] == 100
    assert 0 < results[0]["update_rank"] <= 2 and results[0]["trainable_parameters"] > 1000
    assert [file.stat().st_mtime_ns for file in work.glob("lora*.json")] == made
