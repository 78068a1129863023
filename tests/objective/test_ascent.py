"""Equations 11 and 12: the ascent against a naive loop, its side effects (none), and its step sizes."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.objective._ascent import step_direction
from tests.support.policies import MLP, naive_ascent, states

RULES = ("gradient", "normalized", "sign")
BALLS = [("l2", "sequence"), ("l2", "token"), ("linf", "sequence"), ("linf", "token")]


class Loss(nn.Module):
    """A smooth nonlinear loss of each example that is neither convex nor concave: (B, 3, 4) -> (B,)."""

    def __init__(self, gain=2.0, dtype=torch.float64):
        super().__init__()
        self.policy = MLP(output=(5,), gain=gain, dtype=dtype)

    def forward(self, state):
        return -self.policy(state).log_softmax(dim=1)[:, 0] + 0.1 * self.policy(state).square().sum(dim=1)


def ascend(loss, state, ball, **kwargs):
    return projected_gradient_ascent(loss, state, ball, **({"steps": 4, "step_size": 0.3} | kwargs))


def assert_no_side_effects(before, module):
    for (gradient, required), parameter in zip(before, module.parameters(), strict=True):
        assert parameter.requires_grad == required
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("norm", "scope"), BALLS)
def test_equals_the_naive_loop(norm, scope, rule, masked):
    loss, state = Loss(), states(3, 3, 4)
    mask = torch.rand(3, 3) < 0.6 if masked else None
    ball = PerturbationSet(0.2, norm, scope)
    trajectory = ascend(loss, state, ball, step_rule=rule, mask=mask)
    for b in range(3):
        own = None if mask is None else mask[b]
        oracle = naive_ascent(lambda x: loss(x[None])[0], state[b], ball, steps=4, step_size=0.3, rule=rule, mask=own)
        for name, expected in oracle.items():
            torch.testing.assert_close(getattr(trajectory, name)[:, b], expected, rtol=1e-11, atol=1e-13)
    assert trajectory.step_sizes.eq(0.3).all() and trajectory.step_sizes.shape == (4, 3)
    # The ball binds somewhere and not everywhere, or the comparison would not see the projection.
    sizes = ball.norms(trajectory.deltas[-1])
    assert (sizes > 0.199).any() or masked


@pytest.mark.parametrize("rule", RULES)
def test_directions_are_normalised_gradients_whatever_the_rule(rule):
    loss, state = Loss(), states(2, 3, 4)
    trajectory = ascend(loss, state, PerturbationSet(0.2), step_rule=rule)
    for t in range(4):
        point = (state + trajectory.deltas[t]).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point).sum(), point)
        norm = gradient.flatten(1).norm(dim=1)
        torch.testing.assert_close(trajectory.gradient_norms[t], norm, rtol=1e-12, atol=0)
        torch.testing.assert_close(trajectory.directions[t], gradient / norm[:, None, None], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(trajectory.gradients()[t], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_where_the_gradient_vanishes_the_direction_is_zero_and_nothing_moves(rule):
    state = states(2, 3, 4)
    active = torch.tensor([0.0, 1.0], dtype=torch.float64)
    trajectory = ascend(lambda x: active * x.flatten(1).sum(dim=1), state, PerturbationSet(1.0), step_rule=rule)
    assert all(value.isfinite().all() for value in vars(trajectory).values())
    assert (trajectory.directions[:, 0] == 0).all() and (trajectory.deltas[:, 0] == 0).all()
    assert (trajectory.deltas[1:, 1] != 0).all()


def test_eps0_bounds_the_direction_of_a_tiny_gradient():
    trajectory = ascend(lambda x: 1e-12 * x[:, 0], torch.zeros(1, 2, dtype=torch.float64), PerturbationSet(1.0))
    torch.testing.assert_close(trajectory.directions[0], torch.tensor([[0.5, 0.0]], dtype=torch.float64))


@pytest.mark.slow
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from(BALLS),
    st.sampled_from([*RULES, "auto"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 3),
)
def test_what_is_masked_stays_exactly_zero_and_the_rest_in_the_ball(seed, kind, rule, dtype, dimensions):
    torch.manual_seed(seed)
    loss, state = Loss(dtype=dtype), states(3, 3, 4, dtype=dtype)
    mask = torch.rand(*state.shape[:dimensions]) < 0.5
    ball = PerturbationSet(torch.rand(3, dtype=dtype), *kind)
    step = {"step_size": "auto"} if rule == "auto" else {"step_rule": rule}
    trajectory = ascend(loss, state, ball, mask=mask, start=torch.randn_like(state), **step)
    hidden = ~mask.reshape(*mask.shape, *[1] * (3 - dimensions)).expand_as(state)
    assert (trajectory.deltas[:, hidden] == 0).all() and (trajectory.directions[:, hidden] == 0).all()
    for delta in trajectory.deltas:
        sizes = ball.norms(delta)
        assert (sizes <= ball.epsilon.reshape(-1, *[1] * (sizes.ndim - 1))).all()


@pytest.mark.parametrize("step_size", [0.3, "auto"])
def test_parameters_and_their_gradients_are_untouched(step_size):
    loss, state = Loss(), states(2, 3, 4).requires_grad_()
    weights = list(loss.parameters())
    weights[0].grad = torch.randn_like(weights[0])
    weights[1].requires_grad_(False)
    before = [(None if p.grad is None else p.grad.clone(), p.requires_grad) for p in weights]
    values = [p.detach().clone() for p in weights]
    assert [gradient is None for gradient, _ in before] == [False, True, True, True]
    trajectory = ascend(loss, state, PerturbationSet(0.5), step_size=step_size)
    assert_no_side_effects(before, loss)
    assert all(torch.equal(p, value) for p, value in zip(weights, values, strict=True))
    assert state.grad is None and state.requires_grad and trajectory.deltas[-1].any()


def test_everything_is_detached_even_where_radius_and_step_carry_a_graph():
    state = states(2, 3, 4).requires_grad_()
    scale = state.norm(dim=2).mean(dim=1)
    start = 0.01 * state
    trajectory = ascend(Loss(), state, PerturbationSet(0.1 * scale), step_size=0.2 * scale, start=start)
    for field in dataclasses.fields(trajectory):
        assert not getattr(trajectory, field.name).requires_grad, field.name


@pytest.mark.parametrize("step_size", [0.3, "auto"])
def test_works_without_grad_mode_and_leaves_the_mode_as_it_was(step_size):
    loss, state, ball = Loss(), states(2, 3, 4), PerturbationSet(0.2)
    expected = ascend(loss, state, ball, step_size=step_size)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        actual = ascend(loss, state, ball, step_size=step_size)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(vars(actual).values(), vars(expected).values(), strict=True))
    assert expected.deltas[-1].any()


def test_start_is_projected_first_and_the_ascent_goes_on_from_there():
    loss, state, ball = Loss(), states(2, 3, 4), PerturbationSet(0.5)
    whole = ascend(loss, state, ball, steps=4, step_size=0.05)
    rest = ascend(loss, state, ball, steps=2, step_size=0.05, start=whole.deltas[2])
    torch.testing.assert_close(rest.deltas, whole.deltas[2:], rtol=0, atol=0)
    outside = torch.randn_like(state)
    assert torch.equal(ascend(loss, state, ball, start=outside).deltas[0], ball.project(outside))


def test_losses_are_those_of_the_points_and_the_last_one_is_optional():
    loss, state, ball = Loss(), states(2, 3, 4), PerturbationSet(0.2)
    calls = []

    def counted(x):
        calls.append(torch.is_grad_enabled())
        return loss(x)

    whole = ascend(counted, state, ball)
    assert calls == [True] * 4 + [False]
    expected = torch.stack([loss(state + delta) for delta in whole.deltas])
    torch.testing.assert_close(whole.losses, expected.detach(), rtol=1e-12, atol=0)
    calls.clear()
    cheap = ascend(counted, state, ball, final_loss=False)
    assert calls == [True] * 4 and cheap.losses[-1].isnan().all()
    assert torch.equal(cheap.losses[:-1], whole.losses[:-1]) and torch.equal(cheap.deltas, whole.deltas)


def test_a_step_size_per_example_is_each_examples_own():
    loss, state, ball = Loss(), states(2, 3, 4), PerturbationSet(1.0)
    sizes = torch.tensor([0.02, 0.2])
    both = ascend(loss, state, ball, step_size=sizes)
    assert both.step_sizes.shape == (4, 2) and torch.equal(both.step_sizes[0], sizes.double())
    for b, size in enumerate(sizes.double()):
        alone = ascend(loss, state[b : b + 1], ball, step_size=size.item())
        torch.testing.assert_close(both.deltas[:, b], alone.deltas[:, 0], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("step", [{"step_rule": rule} for rule in RULES] + [{"step_size": "auto"}], ids=str)
@pytest.mark.parametrize(("norm", "scope"), BALLS)
def test_examples_are_independent_of_their_batch(norm, scope, step):
    loss, state = Loss(), states(3, 3, 4) * torch.tensor([0.1, 1.0, 5.0]).reshape(3, 1, 1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1]]).bool()
    epsilon = torch.tensor([0.1, 1.0, 3.0])
    batch = ascend(loss, state, PerturbationSet(epsilon, norm, scope), mask=mask, **step)
    for b in range(3):
        rows = torch.tensor([b])
        alone = ascend(loss, state[rows], PerturbationSet(epsilon[b].item(), norm, scope), mask=mask[rows], **step)
        for field in dataclasses.fields(alone):
            torch.testing.assert_close(
                getattr(batch.select(rows), field.name), getattr(alone, field.name), rtol=1e-9, atol=1e-12
            )


def test_zero_steps_are_the_starting_point_alone():
    state = states(2, 3, 4)
    trajectory = ascend(Loss(), state, PerturbationSet(0.2), steps=0)
    assert trajectory.steps == 0 and trajectory.deltas.shape == (1, 2, 3, 4) and not trajectory.deltas.any()
    assert trajectory.directions.shape == (0, 2, 3, 4) and trajectory.losses.shape == (1, 2)
    assert trajectory.gradient_norms.shape == trajectory.step_sizes.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"steps": -1}, "steps"),
        ({"step_rule": "newton"}, "step_rule"),
        ({"step_size": -0.1}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"step_size": torch.tensor([0.1, float("inf")])}, "step_size"),
        ({"step_size": torch.ones(3)}, "step_size"),
        ({"step_size": torch.ones(2, 1)}, "step_size"),
        ({"step_size": "fast"}, "step_size"),
        ({"step_size": "auto", "step_rule": "sign"}, "step_rule"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask"),
    ],
    ids=str,
)
def test_bad_arguments_name_themselves(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}"):
        ascend(Loss(), states(2, 3, 4), PerturbationSet(0.2), **arguments)


@pytest.mark.parametrize("reduce", [torch.sum, lambda x: x.sum(dim=2)])
def test_a_loss_that_is_not_one_per_example_is_refused(reduce):
    with pytest.raises(ValueError, match="`loss_fn`"):
        ascend(reduce, states(2, 3, 4), PerturbationSet(0.2))


def test_a_step_has_unit_length_however_small_the_gradient():
    """Where a policy is all but certain: the squares of such a gradient are zero in float32."""
    direction = torch.tensor([[0.6, -0.8], [0.6, -0.8], [0.0, 0.0]])
    for scale in (1e-40, 1e-30, 1e-10, 1.0, 1e30):
        step = step_direction(scale * direction, "normalized")
        torch.testing.assert_close(step, direction, rtol=1e-4 if scale < 1e-38 else 1e-6, atol=0)
    # Of what does not underflow, to the bit the gradient over its norm.
    gradient = torch.randn(64, 3, 5)
    norm = gradient.flatten(1).norm(dim=1)[:, None, None] + 1e-12
    assert torch.equal(step_direction(gradient, "normalized"), gradient / norm)
