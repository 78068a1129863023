"""Equations 13 and 20 against the whole Jacobian, in value and in the gradient that the parameters receive."""

import pytest
import torch

from aajr_hf.objective import (
    PerturbationSet,
    aajr_penalty,
    directional_jacobian,
    projected_gradient_ascent,
    squared_amplification,
    trajectory_amplification,
)
from tests.support.policies import (
    MLP,
    Linear,
    explicit_amplification,
    explicit_penalty,
    full_jacobian,
    parameter_gradient,
    relative_error,
    states,
    unit_directions,
)


def nll(policy):
    return lambda state: -policy(state).log_softmax(dim=-1)[..., 0].sum(dim=1)


def ascend(policy, state, steps=3, **kwargs):
    arguments = {"steps": steps, "step_size": 0.4, "step_rule": "normalized"} | kwargs
    return projected_gradient_ascent(nll(policy), state, PerturbationSet(0.5), **arguments)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("grad_mode", [True, False])
def test_jvp_is_the_jacobian_times_the_direction(shape, grad_mode):
    policy, state = MLP(state=shape), states(3, *shape)
    direction = torch.randn_like(state)
    with torch.set_grad_enabled(grad_mode):
        output, tangent = directional_jacobian(policy, state, direction)
    expected = (full_jacobian(policy, state) @ direction.flatten(1)[:, :, None]).reshape(3, 2, 5)
    assert relative_error(tangent, expected) < 1e-9
    torch.testing.assert_close(output, policy(state), rtol=1e-12, atol=0)
    assert tangent.requires_grad == grad_mode


def test_one_state_or_direction_expanded_to_a_batch():
    policy, state = MLP(), states(1, 3, 4)
    direction = torch.randn_like(state)
    _, expected = directional_jacobian(policy, state, direction)
    _, tangent = directional_jacobian(policy, state.expand(3, 3, 4), direction.expand(3, 3, 4))
    torch.testing.assert_close(tangent, expected.expand(3, 2, 5), rtol=1e-12, atol=0)


def test_finite_differences_shrink_with_the_square_of_the_step():
    policy, state = MLP(), states(3, 3, 4)
    direction = unit_directions(state)
    _, exact = directional_jacobian(policy, state, direction)

    def error(step):
        _, tangent = directional_jacobian(
            policy, state, direction, estimator="finite_difference", difference_step=step
        )
        return relative_error(tangent, exact)

    errors = [error(h) for h in (0.04, 0.02, 0.01, 0.005)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 3.9 < coarse / fine < 4.1
    assert errors[-1] > 1e-8  # the rates above are those of truncation, not of rounding


# The truncation error of the default step is of order machine-eps^(2/3): 4e-11 in float64, 2e-5 in float32.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_default_difference_step_fits_states_of_any_scale(dtype, tolerance, scale):
    policy, state = MLP(dtype=dtype), states(3, 3, 4, dtype=dtype)
    direction = unit_directions(state)
    _, exact = directional_jacobian(policy, state, direction)
    _, tangent = directional_jacobian(
        lambda x: policy(x / scale), state * scale, direction, estimator="finite_difference"
    )
    assert relative_error(tangent * scale, exact) < tolerance


def test_the_default_difference_step_exists_at_the_origin():
    policy, state = MLP(), torch.zeros(2, 3, 4).double()
    direction = unit_directions(state)
    _, tangent = directional_jacobian(policy, state, direction, estimator="finite_difference")
    _, exact = directional_jacobian(policy, state, direction)
    assert relative_error(tangent, exact) < 1e-8


def test_finite_differences_return_the_mean_of_the_two_outputs():
    policy, state = MLP(), states(3, 3, 4)
    direction, step = unit_directions(state), torch.tensor([0.01, 0.1, 1.0]).double()
    output, tangent = directional_jacobian(
        policy, state, direction, estimator="finite_difference", difference_step=step
    )
    move = step[:, None, None] * direction
    forward, backward = policy(state + move), policy(state - move)
    torch.testing.assert_close(output, (forward + backward) / 2, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(tangent, (forward - backward) / (2 * step[:, None, None]), rtol=1e-12, atol=1e-12)
    # Exact to O(h^2): a hundredfold error for a tenfold step.
    error = (output - policy(state)).flatten(1).norm(dim=1)
    assert 0 < error[0] < error[1] < error[2] and error[0] < 1e-3


def test_differences_of_low_precision_outputs_are_formed_in_float32():
    policy, state = MLP(dtype=torch.float32), states(2, 3, 4, dtype=torch.float32)
    direction = unit_directions(state)
    output, tangent = directional_jacobian(
        lambda x: policy(x).bfloat16(), state, direction, estimator="finite_difference", difference_step=0.1
    )
    forward, backward = policy(state + 0.1 * direction).bfloat16(), policy(state - 0.1 * direction).bfloat16()
    assert output.dtype == tangent.dtype == torch.float32
    torch.testing.assert_close(tangent, (forward.float() - backward.float()) / 0.2)


@pytest.mark.parametrize(("estimator", "tolerance"), [("jvp", 1e-9), ("finite_difference", 1e-7)])
def test_penalty_is_that_of_the_whole_jacobian(estimator, tolerance):
    policy, state = MLP(gain=2.0), states(3, 3, 4)
    trajectory = ascend(policy, state)
    actual = aajr_penalty(policy, state, trajectory, estimator=estimator)
    expected = explicit_penalty(policy, state, trajectory)
    assert actual.shape == (3,) and ((actual - expected) / expected).abs().max() < tolerance


def test_amplification_point_by_point():
    policy, state = MLP(gain=2.0), states(3, 3, 4)
    trajectory = ascend(policy, state)
    values = trajectory_amplification(policy, state, trajectory)
    for t in range(3):
        point = state + trajectory.deltas[t]
        expected = explicit_amplification(policy, point, trajectory.directions[t])
        assert relative_error(values[t], expected) < 1e-9
        assert relative_error(squared_amplification(policy, point, trajectory.directions[t]), expected) < 1e-9
    assert values.shape == (3, 3) and not values[0].allclose(values[1], rtol=1e-3)
    chosen = trajectory_amplification(policy, state, trajectory, points=[2, 0])
    torch.testing.assert_close(chosen, values[[2, 0]], rtol=1e-12, atol=0)
    assert relative_error(aajr_penalty(policy, state, trajectory), values.mean(dim=0)) < 1e-12


def test_penalty_of_selected_examples_is_their_own():
    policy, state = MLP(), states(4, 3, 4)
    trajectory, rows = ascend(policy, state), torch.tensor([3, 1])
    part = aajr_penalty(policy, state[rows], trajectory.select(rows))
    torch.testing.assert_close(part, aajr_penalty(policy, state, trajectory)[rows], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("estimator", "tolerance"), [("jvp", 1e-9), ("finite_difference", 1e-7)])
def test_parameter_gradient_holds_directions_and_points_constant(estimator, tolerance):
    policy, state = MLP(gain=2.0), states(3, 3, 4)
    trajectory = ascend(policy, state)
    actual = parameter_gradient(aajr_penalty(policy, state, trajectory, estimator=estimator).sum(), policy)
    expected = parameter_gradient(explicit_penalty(policy, state, trajectory, create_graph=True).sum(), policy)
    assert expected.norm() > 0.1 and relative_error(actual, expected) < tolerance
    # Every weight is penalised, not only those of the last layer; a constant offset of the output is not.
    gradients = torch.autograd.grad(
        aajr_penalty(policy, state, trajectory, estimator=estimator).sum(),
        list(policy.parameters()),
        allow_unused=True,
    )
    inner, inner_bias, outer, outer_bias = gradients
    assert inner.norm() > 0.01 and inner_bias.norm() > 0.01 and outer.norm() > 0.01
    assert outer_bias is None or outer_bias.abs().max() < 1e-6


def penalty_through_the_ascent(policy, state, steps, step_size):
    """Equation 20 without the stop-gradient: u_t and delta_t are functions of the parameters too. No ball binds."""
    delta, total = torch.zeros_like(state, requires_grad=True), 0
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(nll(policy)(state + delta).sum(), delta, create_graph=True)
        unit = gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
        total = total + explicit_amplification(policy, state + delta, unit, create_graph=True)
        delta = delta + step_size * unit
    return total / steps


def test_parameter_gradient_differs_from_the_one_without_stop_gradient():
    policy, state = MLP(gain=2.0), states(3, 3, 4)
    ball = PerturbationSet(100.0)
    trajectory = projected_gradient_ascent(nll(policy), state, ball, steps=3, step_size=0.3, step_rule="normalized")
    stopped, whole = aajr_penalty(policy, state, trajectory), penalty_through_the_ascent(policy, state, 3, 0.3)
    torch.testing.assert_close(stopped, whole, rtol=1e-9, atol=0)
    gradients = [parameter_gradient(value.sum(), policy) for value in (stopped, whole)]
    assert relative_error(*gradients) > 0.05


def test_an_update_along_the_gradient_lowers_the_penalty():
    policy, state = MLP(gain=2.0), states(3, 3, 4)
    trajectory = ascend(policy, state)
    before = aajr_penalty(policy, state, trajectory).mean()
    before.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    assert aajr_penalty(policy, state, trajectory).mean() < 0.99 * before


def test_examples_are_averaged_by_nobody_and_scaled_by_nothing():
    """On `z = W s` the penalty of each example is `||W u||^2`, averaged over the steps: no factor for B, A or V."""
    policy = Linear(torch.randn(10, 12, dtype=torch.float64), (2, 5))
    state = states(4, 3, 4)
    trajectory = ascend(policy, state, steps=2)
    expected = (trajectory.directions.flatten(2) @ policy.weight.T).square().sum(dim=2).mean(dim=0)
    torch.testing.assert_close(aajr_penalty(policy, state, trajectory), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("direction", "arguments", "name"),
    [
        (torch.ones(2, 3, 5), {}, "direction"),
        (torch.ones(1, 3, 4), {}, "direction"),
        (torch.ones(2, 3, 4), {"estimator": "complex_step"}, "estimator"),
        (
            torch.ones(2, 3, 4),
            {"estimator": "finite_difference", "difference_step": torch.ones(3)},
            "difference_step",
        ),
    ],
)
def test_bad_arguments_name_themselves(direction, arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        directional_jacobian(MLP(), states(2, 3, 4), direction.double(), **arguments)


def test_a_trajectory_without_steps_has_no_penalty():
    policy, state = MLP(), states(2, 3, 4)
    with pytest.raises(ValueError, match="trajectory"):
        aajr_penalty(policy, state, ascend(policy, state, steps=0))
