"""Theorems 2 and 3 on policies whose constants are known: `z = W s`, so that C = 0 and J = W everywhere."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.objective import (
    PerturbationSet,
    effective_smoothness,
    gradient_step_sizes,
    projected_gradient_ascent,
    segment_curvature,
    spectral_norm,
    step_size_bound,
)
from tests.support.policies import Linear, states

from .test_backtracking import shortfall

CHOICES = st.tuples(
    st.integers(0, 2**31 - 1),
    st.sampled_from(["convex", "concave", "saddle", "nll"]),
    st.sampled_from(["l2", "linf"]),
    st.sampled_from(["sequence", "token"]),
)


def problem(kind, gain=1.0):
    """
    A linear policy, a loss of its state, and the smoothness of that loss in the policy's output: 1 for the quadratics
    `+- 0.5 ||z - a||^2` and for the difference of two such, and 1/2 for the negative log-likelihood of two tokens.
    """
    policy = Linear(gain * torch.randn(10, 12, dtype=torch.float64), (2, 5))
    target = torch.randn(2, 5, dtype=torch.float64)
    signs = {"convex": [1.0, 1.0], "concave": [-1.0, -1.0], "saddle": [1.0, -1.0]}

    def loss(state):
        logits = policy(state)
        if kind == "nll":
            return -logits.log_softmax(dim=-1)[..., 0].sum(dim=1)
        weights = torch.tensor(signs[kind], dtype=torch.float64)[:, None]
        return 0.5 * (weights * (logits - target).square()).flatten(1).sum(dim=1)

    return policy, loss, 0.5 if kind == "nll" else 1.0


def moves(trajectory):
    """The unit vectors v of the segments between two gradients: (K-1, B, n), zero where nothing moved."""
    difference = trajectory.deltas[1:-1] - trajectory.deltas[:-2]
    difference = difference.flatten(2)
    return difference / difference.norm(dim=2, keepdim=True).clamp_min(1e-300)


def test_effective_smoothness_is_the_formula_of_theorem_2():
    assert effective_smoothness(0.5, 3.0, 0.25) == 0.5 * 9 + 0.25
    amplification = torch.tensor([1.0, 2.0])
    expected = torch.tensor([0.5 + 1.0, 2.0 + 3.0])
    assert torch.equal(
        effective_smoothness(torch.tensor([0.5, 0.5]), amplification, torch.tensor([1.0, 3.0])), expected
    )


def test_step_size_bound_is_its_reciprocal():
    assert step_size_bound(4.0) == 0.25
    assert torch.equal(step_size_bound(torch.tensor([4.0, 0.0])), torch.tensor([0.25, float("inf")]))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("masked", [False, True])
def test_segment_curvature_is_the_hessian_along_the_segment(norm, masked):
    """On a quadratic form it is `v' H v` to rounding, of either sign."""
    root = torch.randn(3, 12, 12, dtype=torch.float64)
    hessian, linear = root + root.transpose(1, 2), torch.randn(12, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]]).bool() if masked else None

    def loss(state):
        x = state.flatten(1)
        return 0.5 * torch.einsum("bi,bij,bj->b", x, hessian, x) + x @ linear

    trajectory = projected_gradient_ascent(
        loss, states(3, 3, 4), PerturbationSet(0.5, norm), steps=5, step_size=0.02, mask=mask
    )
    v = moves(trajectory)
    expected = torch.einsum("tbi,bij,tbj->tb", v, hessian, v)
    curvature = segment_curvature(trajectory)
    assert curvature.shape == (4, 3)
    torch.testing.assert_close(curvature, expected, rtol=1e-7, atol=1e-7)
    assert expected.abs().max() > 1 and (expected.amin() < 0 or masked)


def test_segment_curvature_is_the_mean_over_the_segment():
    """Simpson's rule over the Hessian of a nonlinear loss between two points of the ascent."""
    target = torch.randn(12, dtype=torch.float64)

    def loss(state):
        return torch.sin(state.flatten(1)).square() @ target

    state = states(2, 3, 4)
    trajectory = projected_gradient_ascent(loss, state, PerturbationSet(5.0), steps=3, step_size=0.1)
    v = moves(trajectory)

    def hessian_along(t, part):
        point = torch.lerp(trajectory.deltas[t], trajectory.deltas[t + 1], part) + state
        return (2 * torch.cos(2 * point.flatten(1)) * target * v[t].square()).sum(dim=1)

    for t in range(2):
        expected = (hessian_along(t, 0.0) + 4 * hessian_along(t, 0.5) + hessian_along(t, 1.0)) / 6
        torch.testing.assert_close(segment_curvature(trajectory)[t], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_segment_curvature_where_nothing_can_be_said_or_nothing_moved(steps):
    _, loss, _ = problem("convex")
    trajectory = projected_gradient_ascent(loss, states(2, 3, 4), PerturbationSet(0.0), steps=steps, step_size=0.1)
    assert torch.equal(segment_curvature(trajectory), torch.zeros(max(steps - 1, 0), 2).double())


@given(CHOICES, st.floats(0.1, 10))
def test_theorem_2_bounds_the_curvature_on_both_sides(choice, gain):
    seed, kind, norm, scope = choice
    torch.manual_seed(seed)
    policy, loss, smoothness = problem(kind, gain)
    ball = PerturbationSet(torch.rand(3).double() + 0.1, norm, scope)
    trajectory = projected_gradient_ascent(loss, states(3, 3, 4), ball, steps=5, step_size=0.3, step_rule="normalized")
    amplification = (moves(trajectory) @ policy.weight.T).norm(dim=2).detach()
    bound = effective_smoothness(smoothness, amplification.max(dim=0).values, 0.0)
    curvature = segment_curvature(trajectory)
    slack = 1e-9 * gain**2 * 100
    assert (curvature.abs() <= bound + slack).all()
    if kind in ("convex", "concave"):  # here the bound of each segment is an equality, of either sign
        sign = 1.0 if kind == "convex" else -1.0
        torch.testing.assert_close(curvature, sign * amplification.square(), rtol=1e-6, atol=slack)


def test_one_half_is_the_smoothness_of_a_tokens_nll_and_not_less():
    """Two equally likely tokens, moved against each other: the curvature reaches `||J v||^2 / 2`."""
    policy = Linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double())
    trajectory = projected_gradient_ascent(
        lambda state: -policy(state).log_softmax(dim=1)[:, 0],
        torch.zeros(1, 2).double(),
        PerturbationSet(1.0),
        steps=2,
        step_size=1e-3,
    )
    amplification = (moves(trajectory) @ policy.weight.T).norm(dim=2).detach()
    torch.testing.assert_close(
        segment_curvature(trajectory), effective_smoothness(0.5, amplification, 0.0), rtol=1e-5, atol=0
    )


@pytest.mark.slow
@given(CHOICES, st.floats(0.1, 10), st.floats(0.05, 1.0), st.booleans())
def test_theorem_3_step_satisfies_inequality_25(choice, gain, part, masked):
    """For any eta up to 1 / L_eff, with the spectral norm for the amplification, wherever the ball binds."""
    seed, kind, norm, scope = choice
    torch.manual_seed(seed)
    policy, loss, smoothness = problem(kind, gain)
    state = states(3, 3, 4)
    mask = torch.rand(3, 3) < 0.7 if masked else None
    ball = PerturbationSet(10 ** (torch.rand(3).double() * 3 - 2), norm, scope)
    amplification = spectral_norm(policy, state, iterations=100).detach()
    # Power iteration approaches the norm from below: the last per mille is added.
    step = part * step_size_bound(effective_smoothness(smoothness, 1.001 * amplification, 0.0))
    trajectory = projected_gradient_ascent(loss, state, ball, steps=5, step_size=step, mask=mask)
    assert (shortfall(trajectory) <= 1e-12 * (1 + trajectory.losses[1:].abs())).all()
    climbed = trajectory.losses[-1] - trajectory.losses[0]
    movable = torch.ones(3, dtype=torch.bool) if mask is None else mask.any(dim=1)
    assert (climbed[movable] > 0).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("factor", "holds"), [(0.5, True), (1.0, True), (1.5, False), (3.0, False)])
def test_theorem_3_is_sharp_on_a_concave_quadratic(norm, factor, holds):
    """Where every direction has curvature -L_eff, inequality 25 holds up to eta = 1 / L_eff and for no larger one."""
    policy = Linear(3.0 * torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q)
    target = torch.randn(12, dtype=torch.float64)

    def loss(state):
        return -0.5 * (policy(state) - target).square().sum(dim=1)

    state = states(4, 3, 4)
    amplification = spectral_norm(policy, state, iterations=20).detach()
    step = factor * step_size_bound(effective_smoothness(1.0, amplification, 0.0))
    trajectory = projected_gradient_ascent(loss, state, PerturbationSet(100.0, norm), steps=1, step_size=step)
    missing = shortfall(trajectory)
    assert (missing <= 1e-9).all() if holds else (missing > 0.1).all()


@pytest.mark.parametrize("rule", ["gradient", "normalized", "sign"])
def test_the_step_size_of_a_rule_is_that_of_the_gradient_step_it_stands_for(rule):
    """Where the ball does not bind: `||d||^2 / <grad, d>`, whatever the rule."""
    _, loss, _ = problem("saddle")
    state = states(3, 3, 4)
    mask = torch.rand(3, 3) < 0.7
    mask[:, 0] = True
    trajectory = projected_gradient_ascent(
        loss,
        state,
        PerturbationSet(1e9),
        steps=3,
        step_size=torch.tensor([0.1, 0.2, 0.3]),
        step_rule=rule,
        mask=mask,
    )
    move, gradients = trajectory.deltas.diff(dim=0).flatten(2), trajectory.gradients().flatten(2)
    eta = gradient_step_sizes(trajectory, rule)
    torch.testing.assert_close(eta, move.square().sum(dim=2) / (move * gradients).sum(dim=2), rtol=1e-9, atol=0)
    if rule == "gradient":
        assert torch.equal(eta[0], torch.tensor([0.1, 0.2, 0.3]).double())
    if rule == "sign":
        count = (gradients != 0).sum(dim=2)
        expected = torch.tensor([0.1, 0.2, 0.3]) * count / gradients.abs().sum(dim=2)
        torch.testing.assert_close(eta, expected.double(), rtol=1e-6, atol=0)


@given(CHOICES, st.sampled_from(["gradient", "normalized", "sign"]), st.floats(-3, 1), st.booleans())
def test_a_step_within_the_bound_satisfies_inequality_25_whatever_the_rule(choice, rule, magnitude, masked):
    """With L_eff from the spectral norm; wherever the ball binds, and for a sign step in an l2 ball, too."""
    seed, kind, norm, scope = choice
    torch.manual_seed(seed)
    policy, loss, smoothness = problem(kind)
    state = states(3, 3, 4)
    mask = torch.rand(3, 3) < 0.7 if masked else None
    ball = PerturbationSet(10 ** (torch.rand(3).double() * 3 - 2), norm, scope)
    bound = effective_smoothness(smoothness, torch.linalg.matrix_norm(policy.weight.detach(), 2), 0.0)
    trajectory = projected_gradient_ascent(
        loss, state, ball, steps=5, step_size=10**magnitude, step_rule=rule, mask=mask
    )
    eta = gradient_step_sizes(trajectory, rule)
    within = eta * bound <= 1
    slack = 1e-10 * (1 + trajectory.losses.abs().amax(dim=0))
    missing = shortfall(replace(trajectory, step_sizes=eta))
    assert ((missing <= slack) | ~within | (trajectory.lengths == 0)).all()
    assert ((trajectory.losses.diff(dim=0) >= -slack) | ~within).all()


def test_the_length_of_a_sign_step_over_the_norm_of_the_gradient_is_no_step_size_of_theorem_3():
    """A large gradient in one coordinate, small ones in many: the step is mostly across it, and the loss falls."""
    gradient = torch.full((1, 101), 1e-3, dtype=torch.float64)
    gradient[0, 0] = 1.0
    step = 0.5 / 101**0.5  # so that the length over the norm is half of 1 / L_eff, with L_eff = 1
    trajectory = projected_gradient_ascent(
        lambda delta: delta @ gradient[0] - 0.5 * delta[:, 1:].square().sum(dim=1) - 0.5 * delta[:, 0].square(),
        torch.zeros_like(gradient),
        PerturbationSet(100.0, "linf"),
        steps=1,
        step_size=step,
        step_rule="sign",
    )
    by_length = trajectory.deltas[1].norm() / trajectory.gradient_norms[0]
    eta = gradient_step_sizes(trajectory, "sign")
    assert by_length < 0.51 and eta > 1
    assert trajectory.losses[1] < trajectory.losses[0]


def test_the_step_size_of_a_sign_step_that_stays_or_goes_against_the_gradient():
    """At the boundary of an l2 ball, a projected sign step can lower the loss to first order: no step size allows that."""
    ball = PerturbationSet(1.0)
    gradient = torch.tensor([[5.0, 0.1], [1.0, 1.0]]).double()
    start = torch.tensor([[1.0, 0.05], [0.5**0.5, 0.5**0.5]]).double()
    trajectory = projected_gradient_ascent(
        lambda x: (x * gradient).sum(dim=1),
        torch.zeros(2, 2).double(),
        ball,
        steps=1,
        step_size=3.0,
        step_rule="sign",
        start=start,
    )
    eta = gradient_step_sizes(trajectory, "sign")[0]
    assert torch.isinf(eta[0]) and trajectory.losses[1, 0] < trajectory.losses[0, 0]
    still = projected_gradient_ascent(
        lambda x: (x * gradient).sum(dim=1),
        torch.zeros(2, 2).double(),
        PerturbationSet(0.0),
        steps=1,
        step_size=3.0,
        step_rule="sign",
    )
    assert torch.equal(gradient_step_sizes(still, "sign"), torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match="`step_rule` must be one of"):
        gradient_step_sizes(still, "steepest")


def test_segments_within_rounding_count_as_none():
    """An ascent that has arrived at the boundary moves by rounding: quotients by such moves would be noise."""
    slope = torch.randn(64, 12)

    def loss(state):
        return (state.flatten(1) * slope).sum(dim=1) + 0.01 * state.flatten(1).square().sum(dim=1)

    trajectory = projected_gradient_ascent(
        loss, torch.zeros(64, 3, 4), PerturbationSet(0.1), steps=8, step_size=torch.full((64,), 10.0)
    )
    lengths, exact = trajectory.lengths, trajectory.deltas.diff(dim=0).flatten(2).norm(dim=2)
    assert (exact[2:] > 0).any() and (exact[2:] < 1e-6).all() and (lengths[2:] == 0).all()
    assert torch.equal(lengths[:1], exact[:1])
    curvature = segment_curvature(trajectory)
    torch.testing.assert_close(curvature[0], torch.full((64,), 0.02), rtol=1e-3, atol=1e-4)
    assert (curvature[2:] == 0).all() and (gradient_step_sizes(trajectory, "sign")[2:] == 0).all()
