"""Policies with a layer norm: PyTorch differentiates the jvp of its own wrongly, so the jvp must not use it."""

import pytest
import torch

from aajr_hf.objective import directional_jacobian, squared_amplification
from tests.support.policies import MLP, full_jacobian, parameter_gradient, relative_error, states, unit_directions


class NormalisedMLP(MLP):
    """An MLP with a layer norm in between, called by either of its names."""

    def __init__(self, function, affine):
        super().__init__()
        self.function, self.affine = function, affine
        self.scale, self.shift = (torch.nn.Parameter(torch.randn(4, 4).double()) for _ in range(2))

    def forward(self, state):
        hidden = self.inner(state.flatten(1)).unflatten(1, (4, 4))
        hidden = self.function(hidden, [4, 4], *((self.scale, self.shift) if self.affine else ()), eps=1e-3)
        return self.outer(torch.tanh(hidden.flatten(1))).unflatten(1, self.output)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("function", [torch.nn.functional.layer_norm, torch.layer_norm])
def test_parameter_gradient_through_a_layer_norm(function, affine):
    """
    With c = J u, the gradient of `||J u||^2` is 2 d/dh of the gradient of `<policy(s + h u), c>`: an oracle that needs
    first derivatives alone. Those of higher order are wrong for PyTorch's layer norm (pytorch/pytorch#196700).
    """
    policy, state = NormalisedMLP(function, affine), states(3, 3, 4)
    direction = unit_directions(state)
    output, tangent = directional_jacobian(policy, state, direction)
    torch.testing.assert_close(output, policy(state), rtol=1e-10, atol=1e-12)
    expected = (full_jacobian(policy, state) @ direction.flatten(1)[:, :, None]).reshape(3, 2, 5)
    assert relative_error(tangent, expected) < 1e-9

    def gradient_at(step):
        return parameter_gradient((policy(state + step * direction) * tangent.detach()).sum(), policy)

    h = 1e-4
    fourth_order = (8 * (gradient_at(h) - gradient_at(-h)) - (gradient_at(2 * h) - gradient_at(-2 * h))) / (12 * h)
    actual = parameter_gradient(squared_amplification(policy, state, direction).sum(), policy)
    assert actual.norm() > 0.1 and relative_error(actual, 2 * fourth_order) < 1e-8


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_keeps_its_dtype_and_value(dtype, autocast):
    norm = torch.nn.LayerNorm(8, dtype=torch.float32 if autocast else dtype)
    torch.nn.init.normal_(norm.weight)
    state = states(4, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.no_grad():
        expected = norm(state)
        output, _ = directional_jacobian(norm, state, torch.ones_like(state))
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output, expected)
