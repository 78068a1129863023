"""`aajr evaluate --nuisance`: coverage and drift against direct computations, the controls, the report, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from aajr_hf.cli.main import main
from aajr_hf.environments import WORLDS, TextWorld, expert_rows, held_out_rows
from aajr_hf.evaluation.agents import Agent, load_agent
from aajr_hf.evaluation.attacks.settings import RobustnessSettings
from aajr_hf.evaluation.robustness import nuisance
from aajr_hf.evaluation.robustness.nuisance import nuisance_numbers
from aajr_hf.training.adversary.nuisance import matched_direction
from aajr_hf.training.policy.policy import fixed_seed
from aajr_hf.training.sharing.results import RobustnessResults
from tests.support import ROOT
from tests.support.commands import fails
from tests.support.small_agents import SMALL, TOKENIZER, model
from tests.support.typed import mismatches

ROWS = expert_rows("congestion", 6, seed=0, agents=3, variants=2)
STORED = ROOT / "docs" / "results" / "agents" / "congestion"


@pytest.fixture(scope="module")
def agent():
    return Agent("small", "", model().double(), TOKENIZER)


def test_coverage_and_the_moved_answers_are_those_of_a_direct_computation(agent):
    numbers = nuisance_numbers(agent, ROWS, SMALL, 2)
    vectors, moments, changed, shifts = agent.model.get_input_embeddings().weight.detach(), [], [], []
    for half in (ROWS[::2], ROWS[1::2]):
        moment = torch.zeros(16, 16, dtype=torch.float64)
        for row in half:
            found = []
            for text in [row["prompt"][0]["content"], *row["variants"]]:
                said = [{"role": "user", "content": text}, *row["completion"]]
                start = len(TOKENIZER.apply_chat_template(said[:1], add_generation_prompt=True)["input_ids"])
                ids = TOKENIZER.apply_chat_template(said, return_tensors="pt")["input_ids"]
                end = ids[0].tolist().index(TOKENIZER.eos_token_id, start)
                found.append((ids[0, :start], agent.model(ids).logits[0, start - 1 : end].detach()))
            (before, expected), *others = found
            for after, logits in others:
                if torch.equal(before, after):
                    continue
                changed.append(bool((logits.argmax(dim=-1) != expected.argmax(dim=-1)).any()))
                shifts.append(float((logits - expected).norm()))
                if len(before) == len(after):
                    moved = vectors[after] - vectors[before]
                    moment += moved.T @ moved
        moments.append(moment)
    assert numbers["variants"] == len(shifts) > 4
    assert numbers["changed"] == pytest.approx(100 * np.mean(changed), abs=1e-3)
    assert numbers["shift"] == pytest.approx(np.mean(shifts), rel=1e-5)
    covered = []
    for learnt, other in (moments, moments[::-1]):
        basis = torch.linalg.eigh(learnt)[1][:, -2:]
        covered.append(float((basis.T @ other @ basis).trace() / other.trace()))
    assert numbers["subspaces"]["variants"]["of_variants"] == pytest.approx(100 * np.mean(covered), rel=1e-6)
    assert 0 < numbers["subspaces"]["variants"]["of_variants"] < 100
    assert numbers["dimensions"] == 16 and numbers["rank"] == 2


def test_drift_is_the_squared_change_of_the_logits_along_the_drawn_directions(agent):
    half = nuisance._Half.of(agent, ROWS[:4], SMALL, 3)
    factor = torch.randn(16, 3, dtype=torch.float64)
    with fixed_seed(agent.model.device, 7), torch.no_grad():
        found = half.drift(factor)
    squared = []
    with fixed_seed(agent.model.device, 7), torch.no_grad():
        for target in half.targets:
            step = 1e-4 * matched_direction(factor, target.batch.perturbable, target.origin)
            change = (target.policy(step) - target.policy(-step)) / 2e-4
            squared += change.flatten(1).square().sum(dim=1).tolist()
    assert found == pytest.approx(np.mean(squared), rel=1e-3) and found > 0  # Llama's norms are in float32


@pytest.mark.slow
def test_the_controls_cover_less_of_the_ascents_of_a_trained_agent():
    rows = held_out_rows("congestion", 32, seed=0, variants=2)
    numbers = nuisance_numbers(Agent("base", "", *load_agent(str(STORED))), rows, RobustnessSettings(), 8)["subspaces"]
    covered = {name: subspace["of_ascents"] for name, subspace in numbers.items()}
    assert covered["ascents"] > covered["answers"] + 20 > covered["random"] + 20
    assert covered["random"] == pytest.approx(100 * 8 / 128, abs=4)
    assert numbers["variants"]["of_variants"] > 99 > numbers["random"]["of_variants"] + 80
    assert numbers["random"]["drift"] < 0.2 * min(
        numbers[name]["drift"] for name in ("ascents", "variants", "answers")
    )


@pytest.mark.slow
def test_it_is_printed_and_written_and_refused_where_it_cannot_be_measured(tmp_path, capsys, monkeypatch):
    small = model(width=16)
    small.config.aajr_environment = "congestion"
    small.save_pretrained(tmp_path / "agent")
    TOKENIZER.save_pretrained(tmp_path / "agent")
    few = ["--examples", "4", "--attacks", "nll", "--attack_steps", "1", "--output", str(tmp_path / "out")]
    command = ["evaluate", str(tmp_path / "agent"), *few]
    assert main([*command, "--nuisance", "2"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert mismatches(results, RobustnessResults) == [] and results["settings"]["nuisance_rank"] == 2
    found = results["runs"]["agent"]["nuisance"]
    assert list(found["subspaces"]) == ["ascents", "variants", "answers", "random"]
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    share = f"{found['subspaces']['ascents']['of_variants']:.1f}"
    for shown in (printed, page):
        assert (
            "Nuisances" in shown
            and share in shown
            and "Subspaces of at most 2 of 16 dimensions" in " ".join(shown.split())
        )
    assert "`--nuisance` must be at least 1" in fails(capsys, *command, "--nuisance", "0")
    assert "raise `--examples` to 2" in fails(capsys, *command, "--nuisance", "2", "--examples", "1")
    assert "`--nuisance` is only for worlds" in fails(capsys, *command, "--nuisance", "2", "--dataset_name", "x")
    with monkeypatch.context() as patched:
        patched.setattr(WORLDS["congestion"], "variant", TextWorld.variant)
        assert "`--nuisance`: the world congestion has no variants" in fails(capsys, *command, "--nuisance")
    monkeypatch.setattr(nuisance, "variant_differences", lambda state, batch: state[:0, 0])
    assert "no variant has as many tokens" in fails(capsys, *command, "--nuisance")
