"""The regularizer `matched`: its mean on a linear policy, its limits, its estimate, and resumption."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.objective import random_unit_direction, squared_amplification
from aajr_hf.training.adversary.nuisance import factor_of, matched_direction
from tests.support.completions import grpo
from tests.support.tiny import dataset, one_step, tiny_model, trainer

DRAWS = 20_000


def mean_of(policy, directions):
    state = torch.zeros_like(directions)
    return float(squared_amplification(policy, state, directions).mean())


def linear(tokens=3, width=4, outputs=5):
    weight = torch.randn(outputs, tokens, width, dtype=torch.float64)
    return weight, lambda state: torch.einsum("otd,btd->bo", weight, state)


def draws(factor, tokens=3, width=4):
    like = torch.zeros(DRAWS, tokens, width, dtype=torch.float64)
    return matched_direction(factor, torch.ones(DRAWS, tokens, dtype=torch.bool), like)


def test_the_mean_on_a_linear_policy_is_the_trace():
    torch.manual_seed(0)
    weight, policy = linear()
    rows = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.5, 0.1])
    factor = factor_of(rows.T @ rows, 4)
    covariance = rows.T @ rows / torch.trace(rows.T @ rows)
    assert torch.allclose(factor @ factor.T, covariance)
    expected = sum(torch.trace(weight[:, t] @ covariance @ weight[:, t].T) for t in range(3)) / 3
    assert mean_of(policy, draws(factor)) == pytest.approx(float(expected), rel=0.05)


def test_isotropic_nuisance_is_a_random_direction_in_the_mean():
    torch.manual_seed(1)
    _, policy = linear()
    isotropic = mean_of(policy, draws(factor_of(torch.eye(4), 4)))
    unit = random_unit_direction(torch.zeros(DRAWS, 3, 4, dtype=torch.float64))
    assert isotropic == pytest.approx(mean_of(policy, unit), rel=0.05)


def test_one_direction_is_the_amplification_along_it():
    torch.manual_seed(2)
    weight, policy = linear(tokens=1)
    u = torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=0)
    factor = factor_of(torch.outer(u, u), 3)
    expected = float((weight[:, 0] @ u).square().sum())
    assert mean_of(policy, draws(factor, tokens=1)) == pytest.approx(expected, rel=0.05)


def test_only_the_first_directions_are_kept_and_only_perturbable_tokens_move():
    moment = torch.diag(torch.tensor([4.0, 1.0, 9.0]))
    factor = factor_of(moment, 2)
    assert torch.allclose(factor @ factor.T, torch.diag(torch.tensor([4.0, 0.0, 9.0])).double() / 13)
    assert not factor_of(torch.zeros(3, 3), 2).any()
    mask = torch.tensor([[True, False, True]])
    direction = matched_direction(factor, mask, torch.zeros(1, 3, 3))
    assert direction[0, 0].any() and not direction[0, 1].any()


def test_the_estimate_is_that_of_the_ascents_and_the_same_whenever_it_is_made(tmp_path):
    run = trainer(tmp_path, regularizer="matched", nuisance_rank=16, aajr_warmup_ratio=0.0)
    state = torch.get_rng_state()
    factor = run.nuisance_factor()
    assert torch.equal(torch.get_rng_state(), state) and run.nuisance_factor() is factor
    moment = torch.zeros(16, 16, dtype=torch.float64)
    for start in range(0, 16, 4):
        inputs = run.data_collator(list(run.train_dataset)[start : start + 4])
        ascent = run._ascend(run.model, run._system_loss(inputs, None), None)
        for directions in ascent.trajectory.directions:
            for row in directions[ascent.policy.batch.perturbable]:
                moment += torch.outer(row, row)
    assert torch.allclose(factor @ factor.T, moment / moment.trace(), atol=1e-5)
    for nuisance in ("answers", "random"):
        other = trainer(tmp_path, regularizer="matched", nuisance=nuisance, nuisance_rank=4).nuisance_factor()
        assert other.shape == (16, 4) and torch.trace(other @ other.T).item() == pytest.approx(1)
        if nuisance == "random":
            assert torch.allclose(other.T @ other, torch.eye(4).double() / 4, atol=1e-6)


def test_training_goes_on_from_a_checkpoint_with_the_same_covariance(tmp_path):
    settings = {
        "regularizer": "matched",
        "nuisance_rank": 4,
        "regularizer_lambda": 0.1,
        "ascent_steps": 1,
        "max_steps": 4,
    }
    settings |= {"optim": "adamw_torch", "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path, tiny_model(torch.float32), dataset(16), **settings)
    whole.train()
    assert whole.state.log_history[0]["aajr/penalty"] > 0
    again = trainer(tmp_path, tiny_model(torch.float32, seed=1), dataset(16), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_without_lambda_nothing_changes_and_what_does_not_work_is_refused(tmp_path):
    none, _ = one_step(tmp_path, regularizer="none")
    zero, _ = one_step(tmp_path, regularizer="matched", regularizer_lambda=0.0)
    assert all(torch.equal(none[name], zero[name]) for name in none)
    with pytest.raises(ValueError, match="`regularizer` matched works only with SFT"):
        grpo(tmp_path, tiny_model(torch.float32), regularizer="matched")
    run = trainer(tmp_path, regularizer="matched")
    run.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="`regularizer` matched does not work with FSDP"):
        run._check_support()
