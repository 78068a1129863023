"""Estimates of the penalty from some of its points: weighted, so that nothing but noise is added."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.training.amortisation import importance_sample

from .tiny import dataset, one_step, tiny_model, trainer


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def test_weights_undo_the_draws():
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([0.0, 1.0, 4.0, 95.0])
    indices, weights = importance_sample(scores, 40000, generator)
    # A weight is 1 / (N p): the probabilities that it implies are those of the mixture, and of the draws.
    probabilities = torch.stack([1 / (4 * weights[indices == i][0]) for i in range(4)])
    torch.testing.assert_close(probabilities, 0.1 / 4 + 0.9 * scores / 100)
    frequencies = torch.bincount(indices, minlength=4) / len(indices)
    assert ((frequencies - probabilities).abs() < 4 * (probabilities / 40000).sqrt()).all()
    for values in (torch.tensor([3.0, 2.0, 1.0, 0.5]), scores):  # scores that mislead, and that are right
        assert float((weights * values[indices]).mean()) == pytest.approx(float(values.mean()), rel=0.05)


def test_scores_that_tell_nothing_draw_uniformly():
    for scores in (torch.zeros(5), torch.full((5,), 7.0)):
        indices, weights = importance_sample(scores, 50, torch.Generator().manual_seed(0))
        assert len(indices.unique()) == 5 and torch.allclose(weights, torch.ones(50))


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


@pytest.mark.parametrize(
    ("overrides", "varies"),
    [
        ({"penalty_trajectory": "sample"}, True),
        ({"penalty_trajectory": "sample", "penalty_fraction": 0.5}, True),
        ({"penalty_fraction": 0.5}, True),
        ({"penalty_trajectory": "last"}, False),
    ],
    ids=str,
)
def test_the_logged_penalty_averages_to_that_of_all_points(tmp_path, overrides, varies):
    run = trainer(tmp_path, data=dataset(4), max_steps=150, learning_rate=1e-12, **overrides)
    run.train()
    draws = torch.tensor([log["aajr/penalty"] for log in run.state.log_history if "aajr/penalty" in log])
    assert (len(draws.round(decimals=3).unique()) > 2) == varies
    if varies:
        _, whole = one_step(tmp_path, data=dataset(4))
        error = float(draws.std() / len(draws) ** 0.5)
        assert float(draws.mean()) == pytest.approx(whole["aajr/penalty"], abs=4 * error)
        assert error < 0.1 * whole["aajr/penalty"]


def test_the_amortised_gradient_is_unbiased(tmp_path):
    """
    One of the ascent's points, three quarters of the examples, every second step with twice lambda: the gradients of many
    draws average to that of all points, all examples, at every step.
    """
    model = tiny_model(torch.float32, num_hidden_layers=1, initializer_range=0.1)
    run = trainer(tmp_path, model, data=dataset(4), regularizer_lambda=1.0)
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
    assert relative_error(gradient(), without_penalty) < 1e-6  # the steps between have none
    run.state.global_step = 2
    draws = torch.stack([gradient() - without_penalty for _ in range(1200)])
    mean = draws.mean(dim=0) / 2  # over both steps of the interval
    assert relative_error(draws[0] / 2, exact) > 0.2 and relative_error(draws.roll(1, 0), draws) > 0.3
    assert torch.cosine_similarity(mean, exact, dim=0) >= 0.99
    assert float(mean.norm()) == pytest.approx(float(exact.norm()), rel=0.02)
