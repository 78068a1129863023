"""
The penalty on real architectures: `inputs_embeds -> logits` of tiny, randomly initialised language models.

Everything runs in float32, the arithmetic of training, oracle included: models compute norms, rotations and softmaxes in
float32 whatever their dtype, so float64 weights would not make a better oracle. The oracles use reverse mode alone, the
penalty forward mode, and both agree to about 1e-6; 1e-5 is required.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from aajr_hf.objective import (
    PerturbationSet,
    aajr_penalty,
    directional_jacobian,
    projected_gradient_ascent,
    spectral_norm,
)
from tests.support.policies import parameter_gradient, relative_error

FAMILIES = ("llama", "qwen3", "gemma3", "gpt2", "opt", "gpt_neox", "phi3", "mistral")
LENGTH, WIDTH = 6, 16
# Wide initial weights: with the usual ones attention hardly matters, and a random model is nearly linear.
SPREAD = {"initializer_range": 0.25}


def setting(tiny_causal_lm, family, attention="sdpa", batch=2, **config):
    """A model, its policy, a state, the positions that may be perturbed, and the trajectory of an ascent."""
    model = tiny_causal_lm(family, attn_implementation=attention, **SPREAD, **config)

    def policy(state):
        return model(inputs_embeds=state, use_cache=False).logits

    def loss(state):
        return -policy(state)[:, -2:].log_softmax(dim=-1)[..., 3].sum(dim=1)

    state = torch.randn(batch, LENGTH, WIDTH)
    mask = torch.ones(batch, LENGTH, dtype=torch.bool)
    mask[:, -1] = False
    trajectory = projected_gradient_ascent(
        loss, state, PerturbationSet(1.0), steps=2, step_size=0.7, step_rule="normalized", mask=mask
    )
    return model, policy, state, mask, trajectory


def reverse_mode_jacobian(policy, state):
    """Row by row, all examples at once, which do not depend on each other: (B, outputs, inputs) in float64."""
    point = state.clone().requires_grad_()
    outputs = policy(point).flatten(1)
    rows = [torch.autograd.grad(outputs[:, i].sum(), point, retain_graph=True)[0] for i in range(outputs.shape[1])]
    return torch.stack(rows, dim=1).flatten(2).double()


def plain_layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    """Over the last dimension. Higher derivatives of PyTorch's own are wrong (pytorch/pytorch#196700)."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + eps) * weight + bias


def double_backward_product(policy, state, direction):
    """`J u` with reverse mode alone, differentiable in the parameters: the derivative of `v -> <J'v, u>`."""
    point = state.clone().requires_grad_()
    output = policy(point)
    cotangent = torch.zeros_like(output, requires_grad=True)
    (pulled,) = torch.autograd.grad(output, point, cotangent, create_graph=True)
    return torch.autograd.grad((pulled * direction).sum(), cotangent, create_graph=True)[0]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_penalty_is_that_of_the_whole_jacobian(tiny_causal_lm, family, attention):
    with sdpa_kernel(SDPBackend.MATH):
        model, policy, state, _, trajectory = setting(tiny_causal_lm, family, attention)
        assert model.config._attn_implementation == attention
        actual = aajr_penalty(policy, state, trajectory)
        expected = torch.zeros(2, dtype=torch.float64)
        for delta, direction in zip(trajectory.deltas, trajectory.directions, strict=False):
            jacobian = reverse_mode_jacobian(policy, state + delta)
            product = jacobian @ direction.double().flatten(1)[:, :, None]
            expected += product.flatten(1).square().sum(dim=1) / trajectory.steps
    assert ((actual - expected) / expected).abs().max() < 1e-5
    # The state of one position reaches the logits of later ones, and of those alone.
    blocks = jacobian.reshape(2, LENGTH, -1, LENGTH, WIDTH).square().sum(dim=(0, 2, 4))
    assert (blocks.triu(1) == 0).all() and (blocks.tril() > 0)[torch.ones_like(blocks).tril().bool()].all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_receive_the_penaltys_gradient(tiny_causal_lm, family, attention, monkeypatch):
    with sdpa_kernel(SDPBackend.MATH):
        model, policy, state, _, trajectory = setting(tiny_causal_lm, family, attention)
        actual = parameter_gradient(aajr_penalty(policy, state, trajectory).mean(), model)
        monkeypatch.setattr(torch.nn.functional, "layer_norm", plain_layer_norm)
        squares = [
            double_backward_product(policy, state + delta, direction).flatten(1).square().sum(dim=1)
            for delta, direction in zip(trajectory.deltas, trajectory.directions, strict=False)
        ]
        expected = parameter_gradient(torch.stack(squares).mean(), model)
    assert expected.norm() > 0 and relative_error(actual, expected) < 1e-5
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_ascent_raises_the_loss_inside_the_ball_and_spares_what_is_masked(tiny_causal_lm, family):
    _, _, _, mask, trajectory = setting(tiny_causal_lm, family)
    assert (trajectory.losses[-1] > trajectory.losses[0]).all()
    assert (trajectory.deltas.flatten(2).norm(dim=2) <= 1).all()
    assert not trajectory.deltas[:, ~mask].any() and trajectory.deltas[-1][mask].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_finite_differences_agree_with_the_jvp(tiny_causal_lm, family):
    # OPT's ReLU has kinks, at which differences over a finite step and derivatives disagree.
    smooth = {"activation_function": "gelu"} if family == "opt" else {}
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        _, policy, state, _, trajectory = setting(tiny_causal_lm, family, **smooth)
        output, exact = directional_jacobian(policy, state, trajectory.directions[0])
        _, estimate = directional_jacobian(policy, state, trajectory.directions[0], estimator="finite_difference")
        torch.testing.assert_close(output, policy(state), rtol=1e-5, atol=1e-5)
    assert relative_error(estimate, exact) < 0.01


@pytest.mark.slow
def test_spectral_norm_is_the_largest_singular_value_of_the_unmasked_part(tiny_causal_lm):
    with sdpa_kernel(SDPBackend.MATH):
        _, policy, state, mask, _ = setting(tiny_causal_lm, "llama")
        actual = spectral_norm(policy, state, iterations=60, mask=mask).detach()
        columns = mask[0].repeat_interleave(WIDTH)
        expected = torch.linalg.matrix_norm(reverse_mode_jacobian(policy, state)[:, :, columns], 2)
    assert ((actual - expected) / expected).abs().max() < 1e-4
