"""scripts/claims: how settings are chosen, and the arithmetic of each section of the page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import study
from claims import (
    CLAIMS,
    calibration,
    episodes,
    forgetting,
    inner_loop,
    measured,
    one_step,
    price,
    rank,
    robustness,
    stronger,
    tuning,
)
from claims.page import holm, verdict, where
from claims.preset import PRESETS
from scipy.stats import ttest_1samp
from study import page

from aajr_hf import AAJRConfig
from aajr_hf.cli.common import measured as sentences
from aajr_hf.evaluation.reporting.plots import WIDE, render
from tests.support.claims import FIRST, claim_run


def test_the_most_robust_value_is_chosen_that_costs_at_most_two_points():
    def tried(method, value, nominal, left):
        return [
            claim_run("tuning", f"seed {seed}", f"{value:g}", method=method, value=value, nominal=nominal, left=left)
            for seed in (100, 101)
        ]

    runs = [*tried("sft", 0.001, 100.0, 1.0), *tried("sft", 0.002, 99.0, 3.0)]
    # The first value is that of the recipe.
    runs += [*tried("adversarial", 0.001, 97.0, 20.0), *tried("adversarial", 0.002, 99.0, 10.0)]
    runs += [*tried("AAJR", 0.03, 95.0, 60.0), *tried("AAJR", 0.3, 94.9, 80.0), *tried("AAJR", 3, 96.0, 50.0)]
    # Loses more than two points with every value.
    runs += [*tried("matched", 0.03, 90.0, 60.0), *tried("matched", 0.3, 91.0, 20.0)]
    assert tuning.choose(runs) == {"sft": 0.002, "adversarial": 0.001, "AAJR": 0.03, "matched": 0.3}
    assert "| AAJR | regularizer_lambda | 0.03 | 95.0 | 60.0 | chosen |" in tuning.section(runs)


def test_a_value_with_a_failed_training_is_not_chosen():
    runs = [
        claim_run("tuning", f"AAJR, seed {seed}", str(value), method="AAJR", value=value, left=left)
        for value, left in ((0.03, 50.0), (3, 90.0))
        for seed in (100, 101)
    ]
    kept = ("claim", "cell", "agent", "seed", "settings", "method", "value")
    runs[-1] = {name: runs[-1][name] for name in kept} | {"diverged": True}
    assert tuning.choose(runs) == {"AAJR": 0.03}
    assert "| AAJR | regularizer_lambda | 3 | - | - | failed with seed 101 |" in tuning.section(runs)


def of_inner_loop(part, seed, method, left):
    facts = {"part": part, "ascent_steps": 1, "method": method, "step": 330}
    return claim_run("inner_loop", f"{part}, seed {seed}", f"{method} @ 330", left=left, **facts)


def test_runs_are_chosen_by_all_facts_and_only_if_they_contain_them():
    runs = [
        {"part": "a", "ascent_steps": 1},
        {"part": "a", "ascent_steps": 3},
        {"part": "b", "ascent_steps": 1},
        {"part": "a"},
    ]
    assert where(runs, part="a", ascent_steps=1) == runs[:1] and where(runs, part="a") == [*runs[:2], runs[3]]
    assert where([{"part": "a"}], ascent_steps=None) == []


def test_gaps_are_paired_by_seed_also_where_a_training_failed():
    runs = []
    for seed in (1, 2, 3, 4):
        for method, own in (("adversarial", 50.0 + seed), ("AAJR", 40.0 + seed)):
            if (method, seed) != ("adversarial", 1):
                for said, left in ((inner_loop.OWN, own), (inner_loop.ALL, 20.0)):
                    runs.append(of_inner_loop(said, seed, method, left))
    text = "\n".join(inner_loop.section(runs))
    assert "- AAJR leaves a smaller gap than adversarial training: **holds** (+10.0 ± 0.0)." in text


def test_a_verdict_needs_three_seeds_and_an_interval_without_zero():
    assert verdict([1.0, 2.0]) == "**cannot be told** (2 seeds)"
    assert verdict([1.0, 2.0, 3.0]) == "**cannot be told** (+2.0 ± 2.5)"
    assert verdict([2.0, 3.0, 4.0]) == "**holds** (+3.0 ± 2.5)"
    assert verdict([-2.0, -3.0, -4.0]) == "**does not hold** (-3.0 ± 2.5)"


def test_prices_are_compared_only_where_both_classes_meet_the_budget():
    runs = []
    for seed in (1, 2, 3):
        cell, loss = f"nominal loss alone, seed {seed}", {"loss": "nominal loss alone"}
        runs.append(claim_run("price", cell, "no budget", sampled=95.0, **loss))
        for name, gamma, sampled, achieved in (
            ("AAJR", 10, 90.0 + seed, 12.4),
            ("AAJR", 40, 94.0, 41.0),
            ("global spectral", 10, 80.0, 10.0),
            ("global spectral", 40, 10.0, 60.0),
        ):
            same = loss | {"bounds": name, "gamma": gamma, "amplification": achieved}
            same |= {"spectral_norm": achieved if "global" in name else 500.0}
            runs.append(claim_run("price", cell, f"{name} {gamma}", sampled=sampled, **same))
    text = "\n".join(price.section(runs))
    assert "| AAJR 10 | 12.4 ± 0.0 | +0.0 ± 0.0 | +3.0 ± 2.5 | 50.0 ± 0.0 |" in text
    assert (
        "- At gamma 10, AAJR's price is smaller than that of global spectral, sampled: **holds** (+12.0 ± 2.5)" in text
    )
    assert "At gamma 40" not in text and "local spectral, sampled" not in text  # not met, and not measured


def test_the_gap_is_what_all_attacks_break_beyond_the_ascent_of_training():
    runs = []
    for seed in (1, 2, 3):
        for method, own, left in (("adversarial", 80.0, 20.0 + seed), ("AAJR", 75.0, 70.0)):
            for said, value in ((inner_loop.OWN, own), (inner_loop.ALL, left)):
                runs.append(of_inner_loop(said, seed, method, value))
    text = "\n".join(inner_loop.section(runs))
    assert "| adversarial | 330 | 80.0 ± 0.0 | 22.0 ± 2.5 | 58.0 ± 2.5 |" in text
    assert "- adversarial leaves a gap: **holds** (+58.0 ± 2.5)." in text
    assert "- AAJR leaves a smaller gap than adversarial training: **holds** (+53.0 ± 2.5)." in text


def test_a_failed_training_is_counted_and_not_averaged():
    facts = {"part": inner_loop.PLAIN, "method": "AAJR", "eta": 1.0}
    good = claim_run("inner_loop", "plain steps, seed 1", "AAJR @ 1.0", monotone_fraction=0.5, spike=4.0, **facts)
    bad = {name: good[name] for name in ("claim", "agent", "settings", *facts)} | {
        "cell": "plain steps, seed 2",
        "seed": 2,
        "diverged": True,
    }
    (*_, line) = inner_loop.section([good, bad])
    assert line == "| AAJR | 1.0 | 1 of 2 | 0.50 | - | - | 4.0 | 90.0 | 50.0 |"


def test_methods_are_compared_with_aajr_at_the_same_number_of_rows_and_steps():
    runs = []
    for rows, ahead in ((300, 20.0), (8000, -10.0)):
        for seed in (1, 2, 3):
            cell, facts = f"{rows} rows, seed {seed}", {"ascent_steps": 3, "rows": rows}
            for agent, left in (("adversarial", 50.0), ("AAJR", 50.0 + seed + ahead), ("matched", 50.0 + ahead)):
                runs.append(claim_run("robustness", cell, agent, left=left, **facts))
    text = "\n".join(robustness.section(runs))
    said = "AAJR withstands more at 1x, sampled, than adversarial training"
    first, second = text.split("**K = 3, 8000 rows**")
    assert f"\n{said}: **holds** (+22.0 ± 2.5)" in first
    assert f"\nThe declared comparison: {said}: **does not hold** (-8.0 ± 2.5)" in second
    assert "| AAJR, against matched | +2.0 ± 2.5 | +2.0 ± 2.5 | +0.0 ± 0.0 | 0.074 |" in text


def test_more_comparisons_need_more_certainty():
    """Against the p-values of scipy, times 3, 2 and 1."""
    families = {"far": [9.0, 10.0, 11.0], "near": [1.0, 2.0, 4.0], "none": [-1.0, 0.5, 0.6]}
    alone = {name: ttest_1samp(values, 0.0).pvalue for name, values in families.items()}
    found = holm(families)
    assert found["far"] == pytest.approx(3 * alone["far"]) and found["near"] == pytest.approx(2 * alone["near"])
    assert found["none"] == pytest.approx(alone["none"]) and list(found) == ["far", "near", "none"]
    assert holm({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})["b"] == pytest.approx(2 * 0.07418, abs=1e-4)


def test_dullness_is_measured_at_each_agents_own_temperature():
    runs = []
    for seed in (1, 2, 3):
        for said, sampled in ((calibration.AT_ONE, 60.0), (calibration.AT_OWN, 89.0)):
            for method, more in (("adversarial", 1.0), ("AAJR", 0.0)):
                same = {"sampled": sampled + more, "temperature": 0.25, "sampled_at": said}
                runs.append(claim_run("calibration", f"{said}, seed {seed}", method, **same))
    text = "\n".join(calibration.section(runs))
    assert "| AAJR | 0.25 ± 0.00 | 60.0 ± 0.0 | 89.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 |" in text
    assert "At its own temperature, AAJR is still duller than adversarial training: **holds** (+1.0 ± 0.0)." in text


def test_under_a_stronger_attack_the_penalty_is_compared_with_dropout_alone():
    runs = []
    for seed in (1, 2, 3):
        runs.append(claim_run("stronger", f"seed {seed}", "adversarial, dropout", left=70.0))
        runs.append(claim_run("stronger", f"seed {seed}", "AAJR, dropout", left=75.0 + seed))
    text = "\n".join(stronger.section(runs))
    assert "| AAJR, dropout | 90.0 ± 0.0 | 77.0 ± 2.5 | 90.0 ± 0.0 | 77.0 ± 2.5 |" in text
    assert text.count("than adversarial, dropout: **holds** (+7.0 ± 2.5).") == 2


def test_with_one_step_methods_are_compared_where_both_were_measured():
    runs = [
        claim_run("one_step", f"seed {seed}", method, left=left, harder=False)
        for seed in (1, 2, 3)
        for method, left in (("adversarial, dropout", 80.0), ("AAJR", 70.0))
    ]
    text = "\n".join(one_step.section(runs))
    assert text.count("AAJR withstands more at 1x, ") == text.count("**does not hold** (-10.0 ± 0.0)") == 2
    assert "than random direction" not in text


def test_what_is_forgotten_is_compared_by_seed():
    runs = []
    for seed in (1, 2, 3):
        for agent, kl in (("sft", 0.1), ("adversarial", 0.5 + 0.1 * seed), ("AAJR", 0.3)):
            general = {"kl": kl, "perplexity": 3.0, "model_perplexity": 2.0, "right": 80.0, "asked": 70}
            general["by_kind"] = {"fact": kl, "code": 2 * kl}
            runs.append(claim_run("forgetting", f"seed {seed}", agent, **general))
    text = "\n".join(forgetting.section(runs))
    assert "| adversarial | 90.0 ± 0.0 | 0.700 ± 0.248 | 3.00 ± 0.00 | 80.00 ± 0.00 |" in text
    assert "- AAJR forgets less than adversarial (KL, nats per token): **holds** (+0.400 ± 0.248)." in text
    assert render(lambda figure: forgetting.draw(figure, runs), WIDE).startswith(b"\x89PNG")
    assert "the 70 facts and sums" in text and "less than global spectral" not in text  # which was not measured


def test_a_larger_rank_is_compared_by_seed():
    runs = []
    for seed in (1, 2, 3):
        for agent, left in (("LoRA 1", 20.0), ("LoRA 64", 30.0 + seed), ("all weights", 25.0)):
            within = {"0.25": left, "0.5": 0.0}
            runs.append(claim_run("rank", f"seed {seed}", agent, worst_case_success=within, kl=0.2))
    text = "\n".join(rank.section(runs))
    assert "- LoRA 64 withstands more at 0.25x than LoRA 1: **holds** (+12.0 ± 2.5)." in text
    assert "- all weights withstands more at 0.25x than LoRA 64: **does not hold** (-7.0 ± 2.5)." in text


def test_episodes_are_compared_by_base_agent_and_put_beside_the_digests_figures():
    runs = []
    for base in (0, 1, 2):
        for agent, left in (
            ("base", 40.0),
            ("adversarial", 50.0 + base),
            ("AAJR, amortised", 60.0),
            ("global spectral", 55.0),
        ):
            success = dict.fromkeys(episodes.CONDITIONS, 80.0) | {"shock": left + 5, episodes.HARDEST: left}
            one = {"claim": "episodes", "cell": f"hide_and_seek, base {base}", "seed": base, "agent": agent}
            runs.append(one | {"settings": "", "world": "hide_and_seek", "success": success})
    text = "\n".join(episodes.section(runs))
    assert (
        f"- AAJR, amortised keeps more success than adversarial training ({episodes.HARDEST}): **holds** (+9.0 ± 2.5)."
        in text
    )
    assert "| global Jacobian penalty | 68 | 60.0 ± 0.0 |" in text and "| AAJR | 78 | 65.0 ± 0.0 |" in text


def test_the_page_has_a_section_a_figure_and_a_command_for_each_claim():
    runs = [claim_run("tuning", "sft, seed 100", "0.001", method="sft", value=0.001)]
    assert page(runs, "full").count("## ") == 1
    assert "`python scripts/study.py --preset full --claims tuning`" in page(runs, "full")
    assert study.INTRODUCTION.splitlines()[0] in page(runs, "full")


MEASURED = {"amplification": 5.0, "spectral_norm": 9.0, "temperature": 1.1}


@pytest.mark.parametrize(
    "name", ["tuning", "price", "inner_loop", "robustness", "one_step", "stronger", "calibration"]
)
def test_every_cell_alone_has_a_section_and_a_figure_also_with_a_failed_training(name):
    """The page is written after each cell."""
    claim = CLAIMS[name]
    for cell in claim.cells(PRESETS["small" if name != "stronger" else "full"], FIRST):
        runs = [claim_run(name, cell.key, agent, **MEASURED) | cell.describe(name, agent) for agent in cell.agents]
        runs[1] = cell.describe(name, list(cell.agents)[1]) | {"diverged": True}
        text = page(runs, "small")
        assert claim.TITLE in text and ("Left out" in text) != (
            name == "tuning" or cell.key.startswith(inner_loop.PLAIN)
        )
        drawn = study.shown(claim, runs)
        assert render(lambda figure, drawn=drawn: claim.draw(figure, drawn), WIDE).startswith(b"\x89PNG")


def test_a_training_says_what_was_measured_of_its_settings(monkeypatch, tmp_path):
    """Of the settings of a method with enough seeds, and of no others."""
    runs = []
    for seed in (1, 2, 3):
        trained = [("sft", 0.0, 30.0), ("adversarial", 20.0, 60.0), ("AAJR", 40.0 + seed, 90.0)]
        for method, left, seconds in (*trained, ("AAJR, dropout", 50.0, 90.0)):
            for rows in (300, 8000):
                gain = left if rows == 8000 else 1.0
                facts = {"ascent_steps": 1, "rows": rows, "train_seconds": seconds}
                runs.append(claim_run("robustness", f"{rows} rows, seed {seed}", method, left=gain, **facts))
        runs.append(claim_run("robustness", f"K = 3, seed {seed}", "adversarial", ascent_steps=3, rows=8000))
    told = measured.entries(runs, [], FIRST)
    assert len(told) == 3  # plain fine-tuning is what others are compared with
    (tmp_path / "measured.json").write_text(json.dumps(told))
    monkeypatch.setattr(sentences, "MEASURED", tmp_path / "measured.json")
    same = {
        "epsilon": 0.25,
        "clean_loss_weight": 1.0,
        "aajr_warmup_ratio": 0.3,
        "freeze_embeddings": True,
        "ascent_steps": 1,
    }
    penalised = same | {"lambda_mode": "relative", "regularizer_lambda": 0.03}
    sampled = AAJRConfig(str(tmp_path), bf16=False, penalty_trajectory="sample", penalty_fraction=0.5, **penalised)
    assert (
        "against adversarial training with as many ascent steps: about 1.5 times the time, +22.0 ± 2.5 points"
        in sentences.measured_of(sampled)
    )
    for other in (
        {"regularizer_lambda": 0.3},
        {"nuisance": "random"},
        {"perturbed_tokens": "observation"},
        {"rollback_tolerance": 0.5},
    ):
        assert sentences.measured_of(replace(sampled, **other)) is None
    assert sentences.measured_of(replace(sampled, overfitting_interval=10)) == sentences.measured_of(sampled)
    dropout = replace(sampled, model_init_kwargs={"attention_dropout": 0.1}, penalty_fraction=1.0)
    assert "+30.0 ± 0.0 points" in sentences.measured_of(dropout)
    assert sentences.measured_of(replace(dropout, model_init_kwargs=None)) is None
    adversarial = AAJRConfig(str(tmp_path), bf16=False, regularizer="none", regularizer_lambda=0.5, **same)
    assert "against plain fine-tuning: about 2.0 times the time, +20.0 ± 0.0 points" in sentences.measured_of(
        adversarial
    )
    assert sentences.measured_of(replace(adversarial, ascent_steps=3)) is None


def test_a_training_says_what_one_step_gave_with_the_recipes_lambda():
    """Of a setting that `robustness` has, too, its numbers are said."""
    runs = {
        name: [
            claim_run(name, f"seed {seed}", method, left=left, **facts)
            for seed in (1, 2, 3)
            for method, left in (("adversarial", 20.0), ("AAJR", more), ("random direction", 70.0))
        ]
        for name, facts, more in (
            ("robustness", {"ascent_steps": 1, "rows": 8000}, 30.0),
            ("one_step", {"harder": False}, 60.0),
        )
    }
    harder = [claim_run("one_step", f"harder, seed {seed}", "AAJR", left=30.0, harder=True) for seed in (1, 2, 3)]
    told = measured.entries(runs["robustness"], runs["one_step"] + harder, FIRST | {"AAJR": 0.003})
    said = [(entry["settings"].get("regularizer", "aajr"), entry["settings"]["regularizer_lambda"]) for entry in told]
    assert said == [("aajr", 0.003), ("random_direction", 0.03), ("aajr", 0.03)]
    assert ["+10.0" in told[0]["measured"], "+40.0" in told[2]["measured"]] == [True, True]
