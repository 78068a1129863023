"""The amplification budget: the controller against its formula and on a problem whose solution is known, and in training."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from aajr_hf.training.adversary.budget import AmplificationBudget
from tests.support.completions import grpo
from tests.support.memory import memory
from tests.support.tiny import assert_same_gradient, dataset, one_step, tiny_model, trainer


def controller(budget, start, may_grow=lambda: True):
    return AmplificationBudget(budget, start, memory()[0], may_grow)


def end_step(control, step, *observations):
    """Each: the amplifications of a micro-batch's points, and its loss."""
    for amplifications, loss in observations:
        amplifications = torch.as_tensor(amplifications)
        excess = (amplifications - control.budget).clamp_min(0).mean()
        control.observe(float(excess), float((control.budget - amplifications).clamp_min(0).mean()), abs(loss))
    control.on_step_end(None, SimpleNamespace(global_step=step), None)


def test_the_update_is_that_of_the_formula():
    control = controller(2.0, 0.1)
    assert control.weight == 0.1
    end_step(control, 1, ([5.0, 1.0], 0.8), ([2.0, 1.5], 1.2))
    # Excess (3 / 2 + 0) / 2, slack (1 / 2 + 0.5 / 2) / 2.
    ratio, small = 0.75 / 0.375, 0.01 * 1.0 / 4
    expected = (0.1 + small) * ratio**0.04 - small
    assert control.state["multiplier"] == pytest.approx(expected)
    assert control.weight == pytest.approx(expected * ratio**0.25)
    end_step(control, 2)  # in which no penalty is evaluated
    assert control.state["multiplier"] == pytest.approx(expected)
    end_step(control, 4, ([1.0, 0.0], -3.0))
    ratio, small = 0.8 * 0.75 / (0.8 * 0.375 + 0.2 * 1.5), 0.01 * (0.8 * 1 + 0.2 * 3) / 4
    expected = (expected + small) * ratio**0.12 - small
    assert control.state["multiplier"] == pytest.approx(expected)
    assert control.weight == pytest.approx(expected * ratio**0.25)
    for amplification, sign in ((1e6, 1), (0.0, -1)):
        control = controller(2.0, 0.1)
        end_step(control, 1, ([amplification], 1.0))
        assert control.weight == pytest.approx(control.state["multiplier"] * math.exp(sign * 2.5 / 4))


def test_where_nothing_has_a_direction_nothing_is_learnt():
    control = controller(2.0, 0.1)
    control.observe(0.0, 0.0, 0.0)
    control.on_step_end(None, SimpleNamespace(global_step=1), None)
    assert control.state == {"multiplier": 0.1} and control.weight == 0.1


def test_the_multiplier_is_bounded_by_the_problem_and_waits_for_the_warm_up():
    for start, may_grow, expected in ((1e9, True, 10 * 0.5 / 4), (1e9, False, 10 * 0.5 / 4), (0.1, False, 0.1)):
        control = controller(2.0, start, lambda may_grow=may_grow: may_grow)
        end_step(control, 1, ([4.0], 0.5))
        assert control.state["multiplier"] == pytest.approx(expected)
    waiting = controller(2.0, 0.1, lambda: False)
    end_step(waiting, 1, ([1.0], 0.5))
    assert waiting.state["multiplier"] < 0.1


def solve(control, spread, steps=400):
    """Amplifications theta * spread, and a loss that would have theta at 5: what theta becomes."""
    theta = torch.tensor(5.0, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.05)
    seen = []
    for step in range(steps):
        amplification, loss = theta * spread, (theta - 5) ** 2 / 2 + 0.1
        excess = (amplification - control.budget).clamp_min(0).square().mean()
        optimizer.zero_grad()
        (loss + control.weight * excess).backward()
        torch.nn.utils.clip_grad_norm_([theta], 1.0)
        optimizer.step()
        end_step(control, step + 1, (amplification.detach(), float(loss.detach())))
        seen.append(float(amplification.detach().mean()) / control.budget)
    return torch.tensor(seen)


# A long tail, as amplifications have: quantiles of a log-normal distribution.
SPREAD = torch.exp(0.7 * torch.distributions.Normal(0, 1).icdf((torch.arange(32) + 0.5) / 32))


def test_it_finds_the_multiplier_of_a_problem_with_a_known_one_from_both_sides():
    # At the solution, loss and penalty pull equally: 5 - theta = 2 lambda mean(spread * excess), with mean amplification 1.
    theta = 1 / SPREAD.mean()
    expected = float((5 - theta) / (2 * (SPREAD * (theta * SPREAD - 1).clamp_min(0)).mean()))
    for start in (0.0, expected, 100 * expected):
        control = controller(1.0, start)
        ratios = solve(control, SPREAD)
        assert ((ratios[200:] - 1).abs() < 0.1).all()
        assert float(ratios[-1]) == pytest.approx(1, abs=0.01)
        assert control.state["multiplier"] == pytest.approx(expected, rel=0.05)


def test_a_budget_that_the_model_meets_by_itself_is_slack():
    control = controller(10.0, 0.5)  # theta = 5 has a mean of about 6
    ratios = solve(control, SPREAD)
    assert control.state["multiplier"] == 0 and control.weight == 0
    assert float(ratios[-1]) == pytest.approx(5 * float(SPREAD.mean()) / 10, rel=1e-2)


FAST = {
    "optim": "adamw_torch",
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 8,
    "ascent_steps": 1,
    "clean_loss_weight": 1.0,
    "max_grad_norm": 1.0,
    "aajr_warmup_ratio": 0.0,
}


@pytest.mark.slow
def test_training_meets_the_budget(tmp_path):
    run = trainer(
        tmp_path,
        tiny_model(torch.float32),
        dataset(64),
        **FAST | {"max_steps": 80, "amplification_budget": 3.0, "regularizer_lambda": 0.0},
    )
    run.train()
    logs = run.state.log_history[:-1]
    assert logs[0]["aajr/lambda"] == 0 and logs[0]["aajr/amplification"] > 20
    last = [log["aajr/amplification"] for log in logs[-30:]]
    assert sum(last) / len(last) == pytest.approx(3.0, rel=0.1)
    for log in logs:
        assert log["aajr/budget_violation"] == pytest.approx(log["aajr/amplification"] / 3 - 1, abs=1e-5)
    assert 0.01 < logs[-1]["aajr/lambda"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["global_spectral", "local_spectral"])
def test_training_meets_a_budget_of_the_norm_that_the_regularizer_measures(tmp_path, regularizer):
    settings = FAST | {"max_steps": 80, "regularizer": regularizer, "amplification_budget": 3.0}
    run = trainer(tmp_path, tiny_model(torch.float32), dataset(64), **settings | {"regularizer_lambda": 0.0})
    run.train()
    logs = run.state.log_history[:-1]
    violations = [log["aajr/budget_violation"] for log in logs]
    assert logs[0]["aajr/lambda"] == 0 and violations[0] > 5
    assert sum(violations[-30:]) / 30 == pytest.approx(0, abs=0.1)
    # The adversary's directions are amplified less than the largest singular value.
    assert logs[-1]["aajr/amplification"] < 3.0 * (1 + violations[-1])


def test_a_spectral_budget_is_compared_with_the_largest_singular_value(tmp_path):
    settings = {
        "regularizer": "local_spectral",
        "power_iterations": 60,
        "regularizer_lambda": 1.0,
        "penalty_trajectory": "last",
    }
    _, free = one_step(tmp_path, **settings | {"per_device_train_batch_size": 1})
    norm = free["aajr/penalty"] ** 0.5  # of the one example
    for budget in (0.75 * norm, 2 * norm):
        _, log = one_step(tmp_path, **settings | {"per_device_train_batch_size": 1, "amplification_budget": budget})
        assert log["aajr/budget_violation"] == pytest.approx(norm / budget - 1)
        assert log["aajr/penalty"] == pytest.approx(max(norm - budget, 0) ** 2)


def test_a_global_penalty_and_its_budget_need_no_adversary(tmp_path):
    settings = {"regularizer": "global_spectral", "epsilon": 0.0, "regularizer_lambda": 1.0}
    plain, _ = one_step(tmp_path, regularizer="none", epsilon=0.0)
    penalised, log = one_step(tmp_path, **settings)
    assert log["aajr/penalty"] > 1
    with pytest.raises(AssertionError, match="relative difference"):
        assert_same_gradient(penalised, plain, 0.1)
    within, log = one_step(tmp_path, **settings, amplification_budget=1e3)
    assert -1 < log["aajr/budget_violation"] < -0.9
    assert_same_gradient(within, plain, 1e-6)  # TRL's own loss rounds to float32


@pytest.mark.slow
def test_examples_within_the_budget_get_no_gradient_from_the_penalty(tmp_path):
    plain, _ = one_step(tmp_path, regularizer="none")
    within, log = one_step(tmp_path, amplification_budget=1e3, regularizer_lambda=1.0)
    assert_same_gradient(within, plain, 1e-12)
    assert log["aajr/penalty"] == 0 and log["aajr/amplification"] > 1
    beyond, _ = one_step(tmp_path, amplification_budget=1.0, regularizer_lambda=1.0)
    with pytest.raises(AssertionError, match="relative difference"):
        assert_same_gradient(beyond, plain, 0.1)


@pytest.mark.parametrize("all_alike", [False, True])
def test_completions_without_an_advantage_are_no_slack(tmp_path, all_alike):
    settings = {"amplification_budget": 1e3, "regularizer_lambda": 0.1, "max_steps": 2}
    run = grpo(tmp_path, tiny_model(torch.float32), **settings)
    if all_alike:
        run.reward_funcs = [lambda completion_ids, **_: [1.0] * len(completion_ids)]
    run.train()
    first, second = run.state.log_history[:2]
    assert (first["aajr/budget_slack"] == 0) == all_alike == (second["aajr/lambda"] == 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("amortised", [False, True])
def test_a_resumed_run_goes_on_with_the_multiplier_that_it_had(tmp_path, amortised):
    settings = FAST | {
        "max_steps": 6,
        "amplification_budget": 3.0,
        "regularizer_lambda": 0.0,
        "save_strategy": "steps",
    }
    settings |= {"save_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    if amortised:
        settings |= {"penalty_trajectory": "sample", "penalty_fraction": 0.5, "penalty_interval": 2}
    whole = trainer(tmp_path, tiny_model(torch.float32), dataset(64), **settings)
    whole.train()
    resumed = trainer(tmp_path, tiny_model(torch.float32, seed=1), dataset(64), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.memory.numbers["budget"] == whole.memory.numbers["budget"] and whole.budget.state["multiplier"] > 0
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
