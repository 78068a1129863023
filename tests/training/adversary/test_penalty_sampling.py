"""Estimates of the penalty from some of its points, which add nothing but noise, and the control variate that lowers it."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.training.adversary.ascent import ascend
from aajr_hf.training.adversary.penalties import penalty
from aajr_hf.training.adversary.penalty_sampling import control_variate, sample_points
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


def test_points_are_drawn_uniformly(tmp_path):
    """Of 4 examples with 3 steps, half of the examples and one step of each: 12 points, each in one of 6 draws."""
    run = trainer(tmp_path, data=dataset(4), penalty_trajectory="sample", penalty_fraction=0.5)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    system = run._system_loss(inputs, None)
    ascent = ascend(run.args, system.policy(run.model, None), system, 1.0, keep_products=False)
    generator, drawn = torch.Generator().manual_seed(0), torch.zeros(4, 3)
    for _ in range(600):
        points = sample_points(run.args, ascent, generator)
        assert len(set(points.rows.tolist())) == 2 and points.steps == [0]
        for i, row in enumerate(points.rows.tolist()):
            found = points.ascent.trajectory.directions[0, i]
            drawn[row] += torch.stack([(ascent.trajectory.directions[t, row] == found).all() for t in range(3)])
    assert drawn.sum() == 1200  # no two points are alike
    assert scipy.stats.chisquare(drawn.flatten()).pvalue > 0.01


# Of 2 examples with 2 steps (4 beyond the ball): settings, and how many different draws there are.
DRAWS = [
    ({"penalty_fraction": 0.5}, 2),
    ({"penalty_trajectory": "sample", "penalty_fraction": 0.5, "penalty_radius": 2.0}, 8),
    ({"penalty_trajectory": "last"}, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "draws"), DRAWS, ids=str)
def test_the_logged_penalty_averages_to_that_of_all_points(tmp_path, overrides, draws):
    still = {"learning_rate": 1e-12, "aajr_warmup_ratio": 0.0, "ascent_steps": 2, "per_device_train_batch_size": 2}
    run = trainer(tmp_path, data=dataset(2), max_steps=6 * draws, **still, **overrides)
    run.train()
    logged = [log["aajr/penalty"] for log in run.state.log_history if "aajr/penalty" in log]
    found = torch.tensor(sorted({round(value, 2) for value in logged}), dtype=torch.float64)
    assert len(found) == draws
    if draws > 1:
        still |= {"penalty_radius": overrides.get("penalty_radius", 1.0)}
        _, whole = one_step(tmp_path, data=dataset(2), **still)
        assert float(found.mean()) == pytest.approx(whole["aajr/penalty"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clean_loss_weight", "measure"),
    [
        (0.0, {}),
        (1.0, {}),
        (1.0, {"penalty_output": "margin", "penalty_radius": 2.0}),
    ],
    ids=["drawn alone", "control variate", "margin beyond the ball"],
)
def test_the_amortised_gradient_is_unbiased(tmp_path, clean_loss_weight, measure):
    """
    One of the ascent's points, half of the examples, every second step with twice lambda: the mean gradient of all
    possible draws, which are equally likely, is that of all points, all examples, at every step.
    """
    model = tiny_model(num_hidden_layers=1, initializer_range=0.1)
    settings = {"regularizer_lambda": 1.0, "clean_loss_weight": clean_loss_weight, "ascent_steps": 2, **measure}
    run = trainer(tmp_path, model, data=dataset(2), per_device_train_batch_size=2, **settings)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    model.train()

    def gradient():
        gradients = torch.autograd.grad(run.compute_loss(model, inputs), list(model.parameters()))
        return torch.cat([g.flatten() for g in gradients])

    run.args.regularizer_lambda = 0.0
    without_penalty = gradient()
    run.args.regularizer_lambda = 1.0
    exact = gradient() - without_penalty
    run.args.penalty_trajectory, run.args.penalty_fraction, run.args.penalty_interval = "sample", 0.5, 2
    run.state.global_step = 1
    between = gradient() - without_penalty
    if clean_loss_weight == 0:
        assert relative_error(gradient(), without_penalty) < 1e-6  # the steps between have none
    run.state.global_step = 2
    draws, outcomes = [], 8 if measure.get("penalty_radius") else 4
    for _ in range(6 * outcomes):
        drawn = gradient() - without_penalty
        if all(relative_error(drawn, other) > 1e-6 for other in draws):
            draws.append(drawn)
    assert len(draws) == outcomes
    estimates = (between + torch.stack(draws)) / 2  # over both steps of the interval
    assert relative_error(estimates[0], exact) > 0.05
    assert relative_error(estimates.mean(dim=0), exact) < 1e-6


def penalty_gradients(run, inputs, draws):
    """The gradient of the penalty alone, of many draws."""
    weights = list(run.model.parameters())

    def gradient(strength):
        run.args.regularizer_lambda = strength
        gradients = torch.autograd.grad(run.compute_loss(run.model, inputs), weights)
        return torch.cat([g.flatten() for g in gradients]).double()

    without = gradient(0.0)
    return torch.stack([gradient(1.0) - without for _ in range(draws)])


@pytest.mark.slow
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
        return float(penalty_gradients(run, inputs, 20).std(dim=0).norm())

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
