"""`penalty_radius`: points of the penalty beyond the ball, which the adversarial loss and the ascent's metrics know nothing of."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.training.adversary.ascent import ascend
from tests.support.cost import flops
from tests.support.matrices import largest_singular_value
from tests.support.reference import Reference
from tests.support.tiny import assert_same_gradient, one_step, tiny_model, trainer

# What the logs say of the penalty, and of the step that it has a part in.
OF_PENALTY = {"aajr/penalty", "aajr/amplification", "aajr/gradient_norm", "aajr/gradient_norm_squared"}


def reference_for(folder, radius, **overrides):
    run = trainer(folder, **overrides)
    torch.manual_seed(run.args.seed)
    return Reference(tiny_model(), next(iter(run.get_train_dataloader())), penalty_radius=radius)


def ascent_of(folder, steps=None, penalised=True, **overrides):
    run = trainer(folder, **overrides)
    torch.manual_seed(0)
    system = run._system_loss(run._prepare_inputs(next(iter(run.get_train_dataloader()))), None)
    policy = system.policy(run.model, None)
    return system, policy, ascend(run.args, policy, system, 1.0, False, steps, penalised)


@pytest.mark.slow
@pytest.mark.parametrize("radius", [1.5, 2.0])
def test_the_penalty_goes_on_beyond_the_ball_and_the_loss_does_not(tmp_path, radius):
    reference = reference_for(tmp_path, radius)
    penalty = reference.mean_penalty()
    expected = reference.gradient(reference.mean(reference.adversarial) + 0.01 * penalty)
    settings = {"regularizer_lambda": 0.01, "penalty_radius": radius}
    gradient, log = one_step(tmp_path, **settings)
    assert log["aajr/penalty"] == pytest.approx(float(penalty.detach()), rel=1e-6)
    assert_same_gradient(gradient, expected, 1e-5)
    # Also where the products do not start from the ascent's forwards, and where they are estimated.
    checkpointed, _ = one_step(tmp_path, gradient_checkpointing=True, **settings)
    assert_same_gradient(checkpointed, expected, 1e-5)
    estimated, _ = one_step(tmp_path, jacobian_estimator="finite_difference", **settings)
    assert_same_gradient(estimated, expected, 1e-2)


@pytest.mark.slow
def test_the_metrics_of_the_ascent_are_those_within_the_ball(tmp_path):
    _, within = one_step(tmp_path)
    _, beyond = one_step(tmp_path, penalty_radius=2.0)
    assert within.keys() == beyond.keys() and {"aajr/delta_norm", "aajr/step_size_bound"} < within.keys()
    for name in OF_PENALTY:
        assert within[name] != beyond[name]
    for name in within.keys() - OF_PENALTY:
        if name.startswith("aajr/"):
            assert within[name] == beyond[name], name


@pytest.mark.slow
def test_last_is_the_last_point_beyond(tmp_path):
    reference = reference_for(tmp_path, 2.0)
    deltas, directions = [list(found) for found in zip(*map(reference.ascend, reference.examples), strict=True)]
    jacobians = [reference.jacobian(b, deltas[b][5], lambda z: z).detach() for b in reference.examples]
    settings = {"penalty_trajectory": "last", "penalty_radius": 2.0}
    _, log = one_step(tmp_path, **settings)
    along = [(full @ directions[b][5].flatten()).square().sum() for b, full in enumerate(jacobians)]
    assert log["aajr/penalty"] == pytest.approx(float(torch.stack(along).mean()), rel=1e-6)
    masks = [reference.prompt(b).expand_as(deltas[b][0]).flatten().bool() for b in reference.examples]
    largest = [largest_singular_value(full[:, mask]) ** 2 for full, mask in zip(jacobians, masks, strict=True)]
    _, log = one_step(tmp_path, regularizer="local_spectral", power_iterations=200, **settings)
    assert log["aajr/penalty"] == pytest.approx(float(torch.stack(largest).mean()), rel=1e-4)


@pytest.mark.parametrize(("radius", "points"), [(1.0, 3), (1.1, 4), (4 / 3, 4), (1.5, 5), (2.0, 6), (3.0, 9)])
def test_it_takes_as_many_more_steps_as_the_radius_asks_for(tmp_path, radius, points):
    _, _, ascent = ascent_of(tmp_path, penalty_radius=radius)
    whole = ascent.of_penalty.trajectory
    assert ascent.trajectory.steps == 3 and whole.steps == points
    assert torch.equal(ascent.delta, whole.deltas[3])
    norms, limit = ascent.ball.norms(whole.deltas.flatten(0, 1)).unflatten(0, (points + 1, 4)), ascent.ball.epsilon
    assert (norms[:4] <= limit).all() and (norms <= radius * limit * (1 + 1e-6)).all()
    if radius > 1:
        assert (norms[4:] > limit).all()
        assert torch.equal(whole.step_sizes, whole.step_sizes[:1].expand(points, -1))


def test_a_shorter_ascent_goes_on_by_as_much_less(tmp_path):
    _, _, one = ascent_of(tmp_path, steps=1, penalty_radius=2.0)
    assert one.of_penalty.trajectory.steps == 2
    three = ascent_of(tmp_path)[2].trajectory.step_sizes
    torch.testing.assert_close(one.of_penalty.trajectory.step_sizes, 3 * three[:2])
    # Ten times 1.1 - 1 is a little more than one, in floating point.
    assert ascent_of(tmp_path, steps=10, penalty_radius=1.1)[2].of_penalty.trajectory.steps == 11


def test_every_direction_is_the_gradient_at_its_point(tmp_path):
    """Also with backtracking, whose steps raise the loss beyond the ball as well."""
    gradient_rule = {"ascent_step_rule": "gradient", "epsilon": 1.0, "penalty_radius": 2.0, "regularizer_lambda": 0.1}
    for settings in ({"penalty_radius": 2.0}, gradient_rule):
        system, policy, ascent = ascent_of(tmp_path, **settings)
        whole = ascent.of_penalty.trajectory
        assert whole.steps == 6
        for t in range(6):
            point = whole.deltas[t].clone().requires_grad_(True)
            losses = system.per_example(policy(point))
            (gradient,) = torch.autograd.grad(losses.sum(), point)
            gradient = gradient * system.batch.perturbable[..., None]
            units = gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
            torch.testing.assert_close(whole.directions[t], units, rtol=0, atol=1e-8)
            torch.testing.assert_close(whole.losses[t], losses.detach(), rtol=1e-8, atol=1e-10)
    assert (whole.losses[:-1].diff(dim=0) >= 0).all()
    assert (ascent.ball.norms(whole.deltas[-1]) > ascent.ball.epsilon).any()


@pytest.mark.slow
def test_only_a_step_with_a_penalty_pays_for_points_beyond(tmp_path):
    assert ascent_of(tmp_path, penalised=False, penalty_radius=2.0)[2].beyond is None
    alone = {"regularizer_lambda": 0.0, "max_steps": 1}
    assert flops(tmp_path, penalty_radius=2.0, **alone) == flops(tmp_path, **alone)
    # Of two steps the first is penalised: both settings cost as much more as it alone does.
    once = flops(tmp_path, penalty_radius=2.0) - flops(tmp_path)
    interval = {"penalty_interval": 2, "max_steps": 2}
    assert flops(tmp_path, penalty_radius=2.0, **interval) - flops(tmp_path, **interval) == once > 0


def test_two_trajectories_as_one():
    """Where steps keep their size and the ball is wide enough, going on is having gone farther at once."""
    settings = {"step_size": 0.1, "step_rule": "normalized", "final_loss": True}

    def loss(state):
        return state.sin().sum(dim=1)

    state = torch.randn(4, 3, dtype=torch.float64)
    at_once = projected_gradient_ascent(loss, state, PerturbationSet(9.0), steps=5, **settings)
    first = projected_gradient_ascent(loss, state, PerturbationSet(9.0), steps=3, **settings | {"final_loss": False})
    rest = projected_gradient_ascent(loss, state, PerturbationSet(9.0), steps=2, start=first.deltas[-1], **settings)
    joined = first.followed_by(rest)
    for name in ("deltas", "directions", "losses", "gradient_norms", "step_sizes", "lengths"):
        assert torch.equal(getattr(joined, name), getattr(at_once, name)), name
