"""scripts/study.py: what is run and chosen, the arithmetic of the page, and the way from agents to it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import study
import study_worker
from study import final_runs, lambda_runs, part_of, rate_runs
from study_choice import choose, superseded
from study_compare import matched_differences, nominal, worst
from study_report import page, write_report
from study_settings import PRESETS, Run
from study_worker import train

from aajr_hf.environments import expert_rows
from aajr_hf.training.models.base_agent import small_llama, train_tokenizer
from tests.support.short_amplification import short_amplification  # noqa: F401
from tests.support.short_trust import short_trust  # noqa: F401
from tests.support.studies import study_run


def test_the_setting_with_the_best_sampled_success_over_all_radii_is_chosen():
    # Means over seeds of nominal + both worst cases - 20: 99 + 2 * 45, 80 + 2 * 60, 99 + 2 * 51.
    tuned = [study_run("aajr", seed, 99, 40 + 10 * seed, value=1e-4) for seed in (0, 1)]
    tuned += [study_run("aajr", seed, 80, 60, value=1e-3) for seed in (0, 1)]
    assert choose(tuned) == 1e-3
    assert choose(tuned + [study_run("aajr", seed, 99, 51, value=1e-2) for seed in (0, 1)]) == 1e-2


def test_shards_are_disjoint_and_complete():
    units = list(range(11))
    parts = [part_of(f"{i}/3", units) for i in (1, 2, 3)]
    assert sorted(sum(parts, [])) == units
    assert part_of(None, units) == units
    for wrong in ("0/3", "4/3", "x", "1"):
        with pytest.raises(ValueError, match="--shard"):
            part_of(wrong, units)


def test_penalties_are_trained_at_the_rate_that_adversarial_training_does_best_with():
    preset = PRESETS["full"]
    units = [
        ("commons", "sft"),
        ("commons", "aajr_amortised"),
        ("congestion", "global_spectral"),
        ("congestion", "base"),
    ]
    rates = rate_runs(units, preset)
    # Found once in each world that has a penalty, whether adversarial training is one of the units or not.
    assert {(r.world, r.method) for r in rates} == {
        ("commons", "sft"),
        *((w, "adversarial") for w in ("commons", "congestion")),
    }
    assert len(rates) == len(set(rates)) == 3 * 4 * len(preset.tuning_seeds)
    tuned = [
        study_run("adversarial", r.seed, 90, 50, value=r.learning_rate, phase="tuning", world=r.world) for r in rates
    ]
    best = {"commons": 8e-3, "congestion": 1e-3}
    for result in tuned:
        result["sampled_success"] += 9 * (result["learning_rate"] == best[result["world"]])
    lambdas = lambda_runs(units[1:3], tuned, preset)
    assert {(r.world, r.learning_rate) for r in lambdas} == set(best.items())
    assert {r.regularizer_lambda for r in lambdas if r.world == "commons"} == {1e-8, 1e-7, 1e-6, 1e-5}
    assert {r.regularizer_lambda for r in lambdas if r.world == "congestion"} == {2e-9, 2e-8, 2e-7, 2e-6}
    tuned += [
        study_run("aajr_amortised", 100, 90, 50, value=value, phase="tuning", world="commons")
        for value in (1e-7, 1e-6)
    ]
    tuned[-1]["sampled_success"] += 1
    finals = final_runs([("commons", "base"), ("commons", "aajr"), ("commons", "aajr_amortised")], tuned, preset)
    # By seed; the exact penalty has the lambda of its estimate.
    assert [(r.method, r.learning_rate, r.regularizer_lambda, r.seed) for r in finals[:4]] == [
        ("base", None, None, 0),
        ("aajr", 8e-3, 1e-6, 0),
        ("aajr_amortised", 8e-3, 1e-6, 0),
        ("base", None, None, 1),
    ]
    assert len(finals) == 3 * len(preset.seeds)


def test_a_run_is_trained_with_its_own_setting(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("aajr_hf.cli.main.main", lambda argv: told.append(argv) or 0)
    for run in (
        Run("commons", "local_spectral", 8e-3, 2e-7, 3, "result"),
        Run("commons", "adversarial", 4e-3, None, 3, "result"),
        Run("commons", "sft", 1e-3, None, 3, "result"),
    ):
        train(run, PRESETS["full"], tmp_path, "cpu")
    options = [dict(zip(argv[3::2], argv[4::2], strict=True)) for argv in told]
    assert [o["--learning_rate"] for o in options] == ["0.008", "0.004", "0.001"]
    assert [o.get("--regularizer_lambda") for o in options] == ["2e-07", None, None]
    assert [o["--epsilon"] for o in options] == ["0.25", "0.25", "0.0"]
    assert [o.get("--regularizer") for o in options] == ["local_spectral", None, None]
    assert all(o["--environment_seed"] == "4" and o["--seed"] == "3" for o in options)


def test_no_seed_serves_both_tuning_and_results():
    for preset in PRESETS.values():
        assert not set(preset.seeds) & set(preset.tuning_seeds)


def test_matched_differences_are_taken_seed_by_seed():
    ours = [study_run("aajr", 100, 90, 50), study_run("aajr", 100, 80, 70), study_run("aajr", 101, 85, 60)]
    theirs = [
        study_run("adversarial", 100, 95, 40),
        study_run("adversarial", 100, 70, 60),
        study_run("adversarial", 101, 90, 60),
    ]
    at_worst, at_nominal = matched_differences(ours, theirs, nominal, worst("2"))
    # Seed 100: both reach a worst case of 60, at a nominal of 80 and 70; both a nominal of 90, at a worst case of 50 and 40.
    assert at_worst == [10, -5] and at_nominal == [10, 0]


def test_the_page_states_differences_with_their_intervals():
    runs = [study_run("base", seed, 100, 20) for seed in (0, 1, 2)]
    runs += [study_run("adversarial", seed, 95, 50 + seed) for seed in (0, 1, 2)]
    runs += [study_run("aajr", seed, 90 + seed, 60 + 2 * seed) for seed in (0, 1, 2)]
    text = page(runs)
    assert "| aajr | lambda 0.001 | 91.0 ± 2.5 (86.0) | 67.0 ± 5.0 (57.0) | 62.0 ± 5.0 (52.0) | 0.50 | 80 |" in text
    assert "300 steps." in text
    # Against adversarial: nominal -5, -4, -3; worst case 10, 11, 12.
    assert "| adversarial | -4.0 ± 2.5 | -4.0 ± 2.5 | +11.0 ± 2.5 | +11.0 ± 2.5 | +11.0 ± 2.5 |" in text
    # The ratios are 30 over 10, 11 and 12; without global_spectral nothing is beyond it.
    assert "| aajr | 11.00 ± 2.48 | 1.00 ± 0.00 | 30.00 ± 0.00 | 2.74 ± 0.62 | - |" in text
    inner = "1.00 ± 0.00 | 0.50 ± 0.00 | +0.00 ± 0.00 | 90.00 ± 0.00 | 1.0 ± 0.0 | 40.0 ± 0.0 | 50.0 ± 0.0 |"
    assert f"| aajr | {inner}" in text
    assert (
        "Compared with adversarial training, `aajr` leaves 100 % along the ascent, 100 % along random directions and 100 % of the spectral norm."
        in text
    )
    # The best without a penalty is the base agent, at 100.
    assert "(greedy: base, sampled: base)" in text and "| aajr | +9.0 ± 2.5 | +9.0 ± 2.5 |" in text
    # Against adversarial training: what the penalty itself costs.
    assert "| aajr | +9.0 ± 2.5 | +9.0 ± 2.5 | +4.0 ± 2.5 | +4.0 ± 2.5 |" in text
    assert "| adversarial | +5.0 ± 0.0 | +5.0 ± 0.0 | - | - |" in text
    assert "the opponents are scripted experts" in text
    assert "the opponents" not in page([study_run("base", 0, 100, 20, world="commons")])
    assert "| method | faster_seeker |" in text and "| aajr | 70.0 ± 0.0 |" in text
    assert "| method | hidden | win |" in text and "| aajr | 0.70 ± 0.00 | 0.25 ± 0.00 |" in text


def test_the_picture_stands_on_the_page_where_there_is_something_to_compare(tmp_path):
    runs = [study_run("adversarial", seed, 90, 50) for seed in (0, 1)]
    write_report(runs, tmp_path)
    assert not (tmp_path / "study.png").exists() and "study.png" not in (tmp_path / "study.md").read_text()
    # One method without a seed in common, one with a single one, and one in this world alone.
    runs += [
        study_run("sft", 2, 90, 50),
        study_run("aajr", 1, 91, 60),
        study_run("base", 0, 100, 20),
        study_run("base", 1, 100, 21),
    ]
    runs += [study_run("adversarial", 0, 90, 50, world="commons"), study_run("aajr", 0, 91, 60, world="commons")]
    write_report(runs, tmp_path)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "![Points ahead of adversarial training](study.png)" in (tmp_path / "study.md").read_text()


def test_all_worlds_together_pool_the_pairs_of_each():
    runs = [study_run("adversarial", 0, 90, 50), study_run("aajr", 0, 91, 50), study_run("base", 0, 100, 20)]
    runs += [study_run("adversarial", seed, 90, 50, world="commons") for seed in (0, 1)]
    runs += [study_run("aajr", seed, 92 + seed, 50, world="commons") for seed in (0, 1)]
    assert "All worlds" not in page([r for r in runs if r["world"] == "commons"])
    text = page(runs).partition("## All worlds")[2]
    # 1 of hide_and_seek, 2 and 3 of commons; base in one world alone.
    assert "| adversarial | +2.0 ± 2.5 |" in text and "| base | -9.0 |" in text


def test_the_page_shows_what_was_tried():
    runs = [study_run("adversarial", 0, 95, 50), study_run("aajr", 0, 90, 60)]
    runs += [study_run("aajr", seed, 80 + seed / 10, 50, value=1e-4, phase="tuning") for seed in (100, 101)]
    runs += [study_run("aajr", seed, 95, 50, value=1e-3, phase="tuning") for seed in (100, 101)]
    text = page(runs)
    runs += [study_run("adversarial", seed, seed - 10, 50, phase="tuning", value=2e-3) for seed in (100, 101)]
    # Each seed's difference, not an interval of two of them: at a worst case of 50, nominal 95 against 90 and 91.
    assert "| adversarial | +5.0, +4.0 | +0.0, +0.0 |" in page(runs)
    # Means of 90.05 - 5, 45, 40 and of 95 - 5, 45, 40.
    assert "| aajr | 0.0001: 56.7 | **0.001: 58.3** |" in text and "at a rate of 0.002)" in text


def test_runs_of_settings_that_tuning_no_longer_chooses_are_no_further_seeds():
    tuned = [study_run("adversarial", 100, 90, 50, value=2e-3, phase="tuning")]
    tuned += [
        study_run("aajr_amortised", 100, 90, reached, value=v, phase="tuning")
        for v, reached in ((1e-3, 50), (1e-2, 40))
    ]
    results = [
        study_run("base", 0, 100, 20),
        study_run("adversarial", 0, 90, 50, value=2e-3),
        study_run("sft", 0, 100, 20),
    ]
    results += [study_run("aajr_amortised", 0, 90, 50), study_run("aajr", 0, 90, 50)]
    assert superseded(tuned + results) == []
    # Another lambda; then a better rate, at which no penalty has been trained yet.
    other = study_run("aajr", 1, 90, 50, value=1e-2)
    assert superseded([*tuned, *results, other]) == [other]
    faster = study_run("adversarial", 100, 95, 60, value=4e-3, phase="tuning")
    penalised = [r for r in tuned + results if r["regularizer_lambda"] is not None]
    old = superseded([*tuned, *results, faster])
    assert sorted(map(id, old)) == sorted(map(id, [*penalised, results[1]]))
    text = page([*tuned, *results, faster])
    assert "tuning now chooses other settings: 5 runs." in text and "aajr_amortised |" not in text


def test_the_variation_of_the_gradient_is_set_against_that_without_the_penalty():
    # Of a mean norm of 2: standard deviations of 1 and 2 without the penalty, of 4 and 6 with it.
    runs = [study_run("adversarial", seed, 95, 50) | {"gradient_norm_variance": v} for seed, v in ((0, 1.0), (1, 4.0))]
    runs += [study_run("aajr", seed, 95, 50) | {"gradient_norm_variance": v} for seed, v in ((0, 16.0), (1, 36.0))]
    # Differences of 1.5 and 2: a half width of 12.706 * 0.25.
    assert "| aajr | 26.00 ± 127.06 | 2.50 ± 6.35 | +1.75 ± 3.18 |" in page(runs)
    assert "| adversarial | 2.50 ± 19.06 | 0.75 ± 3.18 | - |" in page(runs)


def test_the_sensitivity_that_is_left_is_set_against_the_global_penalty():
    runs = [
        study_run("adversarial", seed, 95, 50) | {"amplification": 40.0, "spectral_norm": 120.0} for seed in (0, 1)
    ]
    runs += [study_run("global_spectral", seed, 95, 50) | {"amplification": 15.0} for seed in (0, 1)]
    runs += [study_run("aajr", seed, 95, 50) for seed in (0, 1)]
    # Ratios of 30 / 15 against 30 / 10 and 30 / 11.
    assert "| aajr | 10.50 ± 6.35 | 1.00 ± 0.00 | 30.00 ± 0.00 | 2.86 ± 1.73 | +0.86 ± 1.73 |" in page(runs)
    assert (
        "`aajr` leaves 26 % along the ascent, 100 % along random directions and 25 % of the spectral norm; "
        in page(runs)
    )


def test_episodes_are_set_against_each_baseline_by_seed():
    runs = [study_run("adversarial", seed, 95, 50) for seed in (0, 1)] + [
        study_run("aajr", seed, 95, 50) for seed in (0, 1)
    ]
    for ours in runs[2:]:
        ours["shocked"]["faster_seeker"]["success"] = 0.8 + ours["seed"] / 10
    # Differences of 10 and 20 points.
    assert "| baseline | faster_seeker |\n| --- | ---: |\n| adversarial | +15.0 ± 63.5 |" in page(runs)


def test_runs_that_diverged_or_have_no_partner_are_said_and_left_out():
    lost = {name: value for name, value in study_run("aajr", 1, 0, 0).items() if "amplification" not in name} | {
        "diverged": True
    }
    text = page([study_run("adversarial", 2, 95, 50), study_run("aajr", 0, 90, 60), lost])
    assert "Not finite, and left out: aajr with seed 1." in text
    assert "| adversarial | - | - | - | - | - | - |" in text
    assert "There is no run without a penalty yet." in page([study_run("aajr", 0, 90, 60)])


@pytest.mark.slow
def test_from_agents_to_the_page_and_nothing_twice(tmp_path, monkeypatch, capsys):
    rows = expert_rows("hide_and_seek", 200, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    small_llama(tokenizer, seed=0).save_pretrained(tmp_path / "work" / "base-hide_and_seek")
    tokenizer.save_pretrained(tmp_path / "work" / "base-hide_and_seek")
    # Of the base agent and one method, the first of two parts: the base agent, which is not trained.
    argv = ["study.py", "--preset", "smoke", "--methods", "sft", "--shard", "1/2"]
    argv += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the worker does

    def here(command, **_):
        """The worker, without the imports of a new process."""
        assert Path(command[1]).samefile(study_worker.__file__)
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", command[1:])
            study_worker.main()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(study.subprocess, "run", here)
    study.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "min left" in line]
    assert len(lines) == 1 and lines[-1].startswith("1/1")
    runs = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [(r["method"], r["seed"], r["steps"]) for r in runs] == [("base", 0, 0)]
    # Among the agents, their settings, their prices, their sensitivity, their stability, and their episodes.
    assert (tmp_path / "out" / "study.md").read_text().count("| base |") >= 5
    # Nothing twice: not even where only the results are left of it.
    for file in (tmp_path / "work").glob("*.json"):
        file.unlink()
    study.main()
    assert "min left" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "study.json").read_text()) == runs
