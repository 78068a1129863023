"""Estimates of the penalty from some of its points, which add nothing but noise, and the control variate that lowers it."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.training.adversary.ascent import ascend
from aajr_hf.training.adversary.penalties import penalty
from aajr_hf.training.adversary.penalty_sampling import control_variate
from tests.support.tiny import dataset, one_step, tiny_model, trainer


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def test_a_trajectory_at_single_steps():
    ball = PerturbationSet(1.0)
    trajectory = projected_gradient_ascent(
        lambda s: s.sin().sum(dim=1), torch.randn(4, 3), ball, steps=3, step_size=0.1, final_loss=True
    )
    steps, rows = torch.tensor([2, 0, 2]), torch.tensor([1, 3, 1])
    part = trajectory.at(steps, rows)
    assert part.steps == 1
    for i, (t, b) in enumerate(zip(steps, rows, strict=True)):
        assert torch.equal(part.deltas[:, i], trajectory.deltas[t : t + 2, b])
        assert torch.equal(part.directions[0, i], trajectory.directions[t, b])
        assert torch.equal(part.losses[:, i], trajectory.losses[t : t + 2, b])
        assert part.gradient_norms[0, i] == trajectory.gradient_norms[t, b]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "varies"),
    [
        ({"penalty_trajectory": "sample"}, True),
        ({"penalty_trajectory": "sample", "penalty_fraction": 0.5}, True),
        ({"penalty_fraction": 0.5}, True),
        ({"penalty_trajectory": "sample", "penalty_radius": 2.0}, True),
        ({"penalty_trajectory": "last"}, False),
    ],
    ids=str,
)
def test_the_logged_penalty_averages_to_that_of_all_points(tmp_path, overrides, varies):
    still = {"learning_rate": 1e-12, "aajr_warmup_ratio": 0.0}
    run = trainer(tmp_path, data=dataset(4), max_steps=60 if varies else 5, **still, **overrides)
    run.train()
    draws = torch.tensor([log["aajr/penalty"] for log in run.state.log_history if "aajr/penalty" in log])
    assert (len(draws.round(decimals=3).unique()) > 2) == varies
    if varies:
        _, whole = one_step(tmp_path, data=dataset(4), penalty_radius=overrides.get("penalty_radius", 1.0))
        error = float(draws.std() / len(draws) ** 0.5)
        assert float(draws.mean()) == pytest.approx(whole["aajr/penalty"], abs=4 * error)
        assert error < 0.1 * whole["aajr/penalty"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clean_loss_weight", "measure"),
    [
        (0.0, {}),
        (1.0, {}),
        (1.0, {"penalty_output": "fisher"}),
        (1.0, {"penalty_output": "margin", "penalty_radius": 2.0}),
    ],
    ids=["drawn alone", "control variate", "fisher", "margin beyond the ball"],
)
def test_the_amortised_gradient_is_unbiased(tmp_path, clean_loss_weight, measure):
    """
    One of the ascent's points, three quarters of the examples, every second step with twice lambda: the gradients of many
    draws average to that of all points, all examples, at every step.
    """
    model = tiny_model(torch.float32, num_hidden_layers=1, initializer_range=0.1)
    settings = {"regularizer_lambda": 1.0, "clean_loss_weight": clean_loss_weight, **measure}
    run = trainer(tmp_path, model, data=dataset(4), **settings)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    model.train()

    def gradient():
        gradients = torch.autograd.grad(run.compute_loss(model, inputs), list(model.parameters()))
        return torch.cat([g.flatten() for g in gradients]).double()

    run.args.regularizer_lambda = 0.0
    without_penalty = gradient()
    run.args.regularizer_lambda = 1.0
    exact = gradient() - without_penalty
    run.args.penalty_trajectory, run.args.penalty_fraction, run.args.penalty_interval = "sample", 0.75, 2
    run.state.global_step = 1
    between = gradient() - without_penalty
    if clean_loss_weight == 0:
        assert relative_error(gradient(), without_penalty) < 1e-6  # the steps between have none
    run.state.global_step = 2
    draws = torch.stack([gradient() - without_penalty for _ in range(150)])
    estimates = (between + draws) / 2  # over both steps of the interval
    assert relative_error(draws[0] / 2, exact) > 0.05 and relative_error(draws.roll(1, 0), draws) > 0.05
    assert torch.cosine_similarity(estimates.mean(dim=0), exact, dim=0) >= 0.99
    along = estimates @ exact / exact.norm() ** 2
    error = float(along.std() / len(along) ** 0.5)
    assert error < 0.05 and float(along.mean()) == pytest.approx(1, abs=4 * error)


def penalty_gradients(run, inputs, draws):
    """The gradient of the penalty alone, of many draws."""
    weights = list(run.model.parameters())

    def gradient(strength):
        run.args.regularizer_lambda = strength
        gradients = torch.autograd.grad(run.compute_loss(run.model, inputs), weights)
        return torch.cat([g.flatten() for g in gradients]).double()

    without = gradient(0.0)
    return torch.stack([gradient(1.0) - without for _ in range(draws)])


def test_the_control_variate_is_what_the_outer_passes_say(tmp_path):
    """The secant of the logits between the ends of the ascent; in a small ball, where it is a Jacobian's, no noise is left."""
    model = tiny_model(torch.float32, num_hidden_layers=1)
    settings = {"per_device_train_batch_size": 8, "clean_loss_weight": 1.0, "epsilon": 0.01}
    run = trainer(tmp_path, model, data=dataset(8), **settings)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    model.train()
    system = run._system_loss(inputs, None)
    policy = system.policy(model, None)
    ascent = ascend(run.args, policy, system, 1.0, keep_products=False)
    ends = policy(ascent.delta), policy()
    assert control_variate(run.args, ascent, *ends) is None  # nothing is drawn
    run.args.penalty_trajectory, run.args.penalty_fraction = "sample", 0.25
    known = control_variate(run.args, ascent, *ends)
    for b in range(8):
        rise, run_length = (ends[0] - ends[1])[b].norm(), ascent.delta[b].norm()
        assert float(known[b]) == pytest.approx(float((rise / run_length) ** 2), rel=1e-5)
    assert known.requires_grad and control_variate(run.args, ascent, ends[0], None) is None

    def noise():
        return float(penalty_gradients(run, inputs, 30).std(dim=0).norm())

    with_it = noise()
    run.args.clean_loss_weight = 0.0
    assert with_it < 0.1 * noise()


@pytest.mark.parametrize("output", ["logits", "fisher", "margin"])
def test_in_a_small_ball_the_control_variate_is_the_penalty(tmp_path, output):
    shared = {"clean_loss_weight": 1.0, "penalty_fraction": 0.5, "penalty_output": output, "epsilon": 1e-3}
    run = trainer(tmp_path, data=dataset(4), **shared)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    system = run._system_loss(inputs, None)
    policy = system.policy(run.model, None)
    ascent = ascend(run.args, policy, system, 1.0, keep_products=False)
    known = control_variate(run.args, ascent, policy(ascent.delta), policy())
    whole, _ = penalty(run.args, ascent, range(3), estimator="jvp", difference_step=None)
    torch.testing.assert_close(known, whole, rtol=0.05, atol=0.0)


def test_an_example_that_does_not_move_has_no_secant(tmp_path):
    run = trainer(tmp_path, tiny_model(torch.float32), data=dataset(4), penalty_fraction=0.5, clean_loss_weight=1.0)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    system = run._system_loss(inputs, None)
    policy = system.policy(run.model, None)
    ascent = ascend(run.args, policy, system, 1.0, keep_products=False)
    ascent.trajectory.deltas[-1, 0] = 0
    known = control_variate(run.args, ascent, policy(ascent.delta), policy())
    gradients = torch.autograd.grad(known.sum(), list(run.model.parameters()))
    assert known[0] == 0 and (known[1:] > 0).all()
    assert all(g.isfinite().all() for g in gradients)
