"""The spectral and Frobenius norms against the whole Jacobian, and Theorem 1's separation of the two budgets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.objective import (
    PerturbationSet,
    aajr_penalty,
    frobenius_norm_squared,
    projected_gradient_ascent,
    random_unit_direction,
    spectral_norm,
    top_singular_direction,
)
from tests.support.policies import MLP, Linear, full_jacobian, parameter_gradient, relative_error, states

MASK = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]]).bool()


def masked_jacobian(policy, state, mask, **kwargs):
    jacobian = full_jacobian(policy, state, **kwargs)
    return jacobian if mask is None else jacobian * mask[:, :, None].expand_as(state).reshape(len(state), 1, -1)


def orthogonal(n: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize(("estimator", "tolerance"), [("jvp", 1e-9), ("finite_difference", 1e-7)])
def test_spectral_norm_is_the_largest_singular_value(mask, estimator, tolerance):
    policy, state = MLP(), states(3, 3, 4)
    actual = spectral_norm(policy, state, iterations=200, mask=mask, estimator=estimator)
    expected = torch.linalg.matrix_norm(masked_jacobian(policy, state, mask), 2)
    assert actual.shape == (3,) and ((actual - expected) / expected).abs().max() < tolerance


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_top_direction_is_the_right_singular_vector(mask):
    policy, state = MLP(), states(3, 3, 4).requires_grad_()
    direction = top_singular_direction(policy, state, iterations=400, mask=mask)
    vectors = torch.linalg.svd(masked_jacobian(policy, state.detach(), mask)).Vh[:, 0]
    cosine = (direction.flatten(1) * vectors).sum(dim=1)
    torch.testing.assert_close(cosine.abs(), torch.ones(3).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), torch.ones(3).double(), rtol=1e-9, atol=0)
    assert not direction.requires_grad and state.grad is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in policy.parameters())
    assert mask is None or not direction[~mask].any()


def test_spectral_norm_is_a_lower_bound_that_grows_with_the_iterations():
    policy, state = MLP(), states(3, 3, 4)
    exact = torch.linalg.matrix_norm(full_jacobian(policy, state), 2)
    values = []
    for iterations in (1, 2, 4, 8, 16):
        torch.manual_seed(5)
        values.append(spectral_norm(policy, state, iterations=iterations).detach())
    assert (torch.stack(values).diff(dim=0) > 0).all() and (values[-1] <= exact * (1 + 1e-12)).all()
    assert (values[0] < 0.99 * exact).any()


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_spectral_norm_has_the_gradient_of_the_singular_value(mask):
    policy, state = MLP(), states(3, 3, 4)
    value = spectral_norm(policy, state, iterations=400, mask=mask)
    expected = torch.linalg.matrix_norm(masked_jacobian(policy, state, mask, create_graph=True), 2)
    gradients = [parameter_gradient(x.sum(), policy) for x in (value, expected)]
    assert gradients[1].norm() > 0.1 and relative_error(*gradients) < 1e-7


def test_norms_work_without_grad_mode():
    policy, state = MLP(), states(3, 3, 4)
    with torch.no_grad():
        value = spectral_norm(policy, state, iterations=200)
        frobenius = frobenius_norm_squared(policy, state, samples=2)
    expected = torch.linalg.matrix_norm(full_jacobian(policy, state), 2)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    assert not value.requires_grad and not frobenius.requires_grad


def test_a_constant_policy_has_norm_zero_and_a_finite_gradient():
    policy, state = Linear(torch.zeros(5, 12).double()), states(2, 3, 4)
    value = spectral_norm(policy, state, iterations=3)
    assert value.eq(0).all() and frobenius_norm_squared(policy, state, samples=1).eq(0).all()
    assert parameter_gradient(value.sum(), policy).isfinite().all()


@pytest.mark.parametrize("estimator", ["jvp", "finite_difference"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_frobenius_norm_is_exact_where_every_direction_is_amplified_alike(mask, estimator):
    """For J = c times an orthogonal matrix every sample is c^2, and the squared norm c^2 times the free coordinates."""
    policy, state = Linear(2.5 * orthogonal(12)), states(3, 3, 4)
    actual = frobenius_norm_squared(policy, state, samples=1, mask=mask, estimator=estimator)
    free = torch.tensor([12.0] * 3 if mask is None else [8.0, 8.0, 12.0]).double()
    torch.testing.assert_close(actual, 6.25 * free, rtol=1e-8, atol=0)


@pytest.mark.parametrize("mask", [None, MASK[0]], ids=["whole", "masked"])
def test_frobenius_norm_is_unbiased(mask):
    """100,000 copies of one example: their mean is within 4 standard errors, which are below 0.4 %."""
    policy, state, copies = MLP(), states(1, 3, 4), 100_000
    own = None if mask is None else mask[None]
    expected = masked_jacobian(policy, state, own).square().sum().item()
    many = None if mask is None else own.expand(copies, 3)
    with torch.no_grad():
        draws = frobenius_norm_squared(policy, state.expand(copies, 3, 4), samples=1, mask=many)
    standard_error = (draws.std() / copies**0.5).item()
    assert standard_error < 0.004 * expected
    assert abs(draws.mean().item() - expected) < 4 * standard_error


def test_samples_are_averaged():
    policy, state = MLP(), states(1, 3, 4).expand(500, 3, 4)
    spread = [frobenius_norm_squared(policy, state, samples=n).std().item() for n in (1, 16)]
    assert 3 < spread[0] / spread[1] < 5.3  # 4 in expectation
    torch.manual_seed(1)
    singles = [frobenius_norm_squared(policy, state, samples=1) for _ in range(3)]
    torch.manual_seed(1)
    three = frobenius_norm_squared(policy, state, samples=3)
    torch.testing.assert_close(three, torch.stack(singles).mean(dim=0), rtol=1e-12, atol=0)


def test_frobenius_norm_trains_the_parameters():
    """J = W = c Q: each sample's gradient by W is `2 n W w w'`, and has the inner product `2 n c^2` with W."""
    policy, state = Linear(2.5 * orthogonal(12)), states(1, 3, 4)
    value = frobenius_norm_squared(policy, state, samples=2)
    gradient = parameter_gradient(value.sum(), policy)
    torch.testing.assert_close(gradient @ policy.weight.flatten(), 2 * value.sum(), rtol=1e-9, atol=0)
    assert gradient.norm() > 1


@pytest.mark.parametrize("mask", [None, MASK[0]], ids=["whole", "masked"])
def test_random_directions_are_uniform_on_the_sphere_of_what_is_free(mask):
    copies = 100_000
    many = None if mask is None else mask.expand(copies, 3)
    directions = random_unit_direction(torch.zeros(copies, 3, 4).double(), many).flatten(1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(copies).double(), rtol=1e-9, atol=0)
    free = torch.ones(12).double() if mask is None else mask.repeat_interleave(4).double()
    moment = directions.T @ directions / copies
    assert (moment - torch.diag(free) / free.sum()).abs().max() < 2e-3
    assert directions.mean(dim=0).abs().max() < 5e-3
    # Fourth moments tell the sphere from other symmetric distributions: 3 / (n (n + 2)) for each free coordinate.
    n = free.sum()
    torch.testing.assert_close(directions[:, free > 0].pow(4).mean(), 3 / (n * (n + 2)), rtol=0.02, atol=0)
    assert not directions[:, free == 0].any()


@pytest.mark.slow
@given(
    st.integers(0, 2**31 - 1),
    st.floats(0.01, 10),
    st.floats(2, 1000),
    st.integers(1, 11),
    st.sampled_from(["l2", "linf"]),
)
def test_theorem_1_directional_budget_met_while_the_global_one_is_broken(seed, gamma, ratio, dimension, norm):
    """
    J = gamma P_U + M (I - P_U), with a loss whose gradients stay in U: the amplification along the ascent is gamma,
    however large M, the spectral norm, is.
    """
    torch.manual_seed(seed)
    ceiling = gamma * ratio
    basis = orthogonal(12)[:, :dimension]
    onto = basis @ basis.T
    policy = Linear(gamma * onto + ceiling * (torch.eye(12).double() - onto))
    target = basis @ torch.randn(dimension, dtype=torch.float64)

    def loss(state):
        return torch.sin(policy(state) @ target) + 3 * policy(state) @ target

    state = states(2, 3, 4)
    trajectory = projected_gradient_ascent(
        loss, state, PerturbationSet(0.3, norm), steps=3, step_size=0.1, step_rule="normalized"
    )
    outside = trajectory.directions.flatten(2) @ (torch.eye(12).double() - onto)
    assert outside.norm(dim=2).max() < 1e-9
    amplification = aajr_penalty(policy, state, trajectory).sqrt()
    torch.testing.assert_close(amplification, torch.full((2,), gamma).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        spectral_norm(policy, state, iterations=40), torch.full((2,), ceiling).double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda policy, state: spectral_norm(policy, state, iterations=0), "iterations"),
        (lambda policy, state: top_singular_direction(policy, state, iterations=-1), "iterations"),
        (lambda policy, state: frobenius_norm_squared(policy, state, samples=0), "samples"),
        (lambda policy, state: spectral_norm(policy, state, iterations=1, estimator="exact"), "estimator"),
        (lambda policy, state: random_unit_direction(state, torch.ones(2, 4)), "mask"),
    ],
)
def test_bad_arguments_name_themselves(call, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        call(MLP(), states(2, 3, 4))
