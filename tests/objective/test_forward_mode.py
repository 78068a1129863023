"""Forward mode through activation checkpointing and linear layers: the same numbers, fewer tensors kept, fewer products."""

import contextlib
import importlib

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from aajr_hf._compat import functorch
from aajr_hf.objective import RecordedProducts, _forward_mode, checkpointed, directional_jacobian
from aajr_hf.objective._forward_mode import forward_mode
from tests.support.policies import MLP, parameter_gradient, relative_error, states

from .test_transformers_policies import FAMILIES, SPREAD

LENGTH, WIDTH = 6, 16
# Adapter, and whether under autocast.
MODES = [("full", False), ("lora", True)]


def agent(tiny_causal_lm, family, adapter="full", checkpointing=True, **config):
    model = tiny_causal_lm(family, **SPREAD, **config)
    if adapter == "lora":
        # Not zero as LoRA starts, so that every factor receives a gradient.
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.train()
    if checkpointing:
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = checkpointed
    return model


def penalty_gradient(model, autocast=False):
    """The gradient of `||J u||^2` by the trainable parameters, and the value."""
    torch.manual_seed(0)
    state, direction = torch.randn(2, LENGTH, WIDTH), torch.randn(2, LENGTH, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        _, tangent = directional_jacobian(
            lambda s: model(inputs_embeds=s, use_cache=False).logits, state, direction / direction.norm()
        )
    value = tangent.float().square().sum()
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, trainable, allow_unused=True)
    return torch.cat([g.flatten() for g in gradients if g is not None]), value.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "autocast"), MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_no_gradient(tiny_causal_lm, family, adapter, autocast):
    torch.manual_seed(1)
    plain, value = penalty_gradient(agent(tiny_causal_lm, family, adapter, checkpointing=False), autocast)
    torch.manual_seed(1)
    actual, same = penalty_gradient(agent(tiny_causal_lm, family, adapter), autocast)
    assert plain.norm() > 0 and torch.isfinite(plain).all()
    assert relative_error(actual, plain) <= 1e-6 and relative_error(same, value) <= 1e-6


def test_every_family_really_checkpoints(tiny_causal_lm):
    """Without the drop-in the same call fails, or the comparison above would compare nothing."""
    for family in FAMILIES:
        model = agent(tiny_causal_lm, family)
        layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
        assert sum(isinstance(m, transformers.modeling_layers.GradientCheckpointingLayer) for m in layers) == 2
        for layer in layers:
            layer._gradient_checkpointing_func = lambda f, *args: torch.utils.checkpoint.checkpoint(
                f, *args, use_reentrant=False
            )
        with pytest.raises(Exception, match=r"(?i)checkpoint|functorch|vmap|jvp|unwrap|level"):
            penalty_gradient(model)


def kept_bytes(model) -> int:
    """What the graph of the penalty keeps for its backward pass: allocated while it was built, and not freed."""
    state = torch.randn(2, 256, WIDTH)
    direction = torch.ones_like(state)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _, tangent = directional_jacobian(
            lambda s: model.model(inputs_embeds=s, use_cache=False).last_hidden_state,
            state,
            direction,
        )
    assert tangent.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.events())


@pytest.mark.slow
def test_a_checkpointed_layer_keeps_its_inputs_alone(tiny_causal_lm):
    few, many = (agent(tiny_causal_lm, "llama", num_hidden_layers=n) for n in (2, 10))
    per_layer = (kept_bytes(many) - kept_bytes(few)) / 8
    # Hidden state and tangent of 2 x 256 positions in fp32, and the 5 kB of the generator's state.
    assert per_layer <= 2 * (2 * 256 * WIDTH * 4) + 6000
    unchecked = agent(tiny_causal_lm, "llama", checkpointing=False, num_hidden_layers=10)
    assert kept_bytes(unchecked) > 10 * kept_bytes(many)


class Scaled(torch.nn.Module):
    """A layer that gets a second input by keyword, as transformers' layers do, and returns a tuple."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4, dtype=torch.float64)
        self.calls = 0

    def forward(self, hidden, scale=None, name=""):
        self.calls += 1
        output = torch.tanh(self.inner(hidden)) * scale
        return (output, name, output.argmax(dim=-1))


@pytest.mark.parametrize("constant", [False, True], ids=["scale-depends-on-the-state", "scale-is-constant"])
def test_keyword_arguments_may_carry_tangents_too(constant):
    from functools import partial

    layer, state, direction = Scaled(), states(3, 4), states(3, 4)

    def policy(call):
        def run(x):
            scale = torch.full_like(state, 2.0) if constant else x.square()
            output, name, largest = call(partial(layer, scale=scale, name="kept"), x)
            assert name == "kept"
            return output * (1 + largest[..., None])

        return run

    def gradient(call):
        _, tangent = directional_jacobian(policy(call), state, direction)
        return parameter_gradient(tangent.square().sum(), layer), tangent

    plain, plain_tangent = gradient(lambda f, *args: f(*args))
    before = layer.calls
    actual, tangent = gradient(checkpointed)
    assert layer.calls == before + 2  # once forward, once again for the backward pass
    torch.testing.assert_close(tangent, plain_tangent, rtol=0, atol=0)
    assert relative_error(actual, plain) <= 1e-12


def test_outside_a_jvp_it_is_an_ordinary_checkpoint():
    layer, state = Scaled(), states(3, 4).requires_grad_()
    expected = torch.autograd.grad(layer(state, scale=state)[0].sum(), [state, *layer.parameters()])
    output, name, _ = checkpointed(layer, state, state, "kept")
    before = layer.calls
    actual = torch.autograd.grad(output.sum(), [state, *layer.parameters()])
    assert name == "kept" and layer.calls == before + 1
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def products(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["linear", "addmm"])
def test_a_linear_layer_costs_its_primal_and_its_tangent(kind):
    weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    state, direction = states(5, 8), states(5, 8)

    def layer(x):
        return torch.nn.functional.linear(x, weight, bias) if kind == "linear" else torch.addmm(bias, x, weight)

    def policy(x):
        return torch.tanh(layer(torch.tanh(layer(x))))

    def penalty(run):
        with run():
            output, tangent = torch.func.jvp(policy, (state,), (direction,))
        return output, tangent, torch.autograd.grad(tangent.square().sum(), (weight, bias))

    forward = products(lambda: policy(state))
    with torch.no_grad():
        assert products(lambda: directional_jacobian(policy, state, direction)) == 2 * forward
    # Backward by 2 inputs and 2 weights of 2 layers; the first primal input is no parameter's function.
    assert products(lambda: penalty(forward_mode)) <= 6 * forward
    assert products(lambda: penalty(forward_mode)) < products(lambda: penalty(contextlib.nullcontext))
    output, tangent, gradients = penalty(forward_mode)
    torch.testing.assert_close(output, policy(state), rtol=1e-14, atol=1e-14)
    expected = penalty(contextlib.nullcontext)
    torch.testing.assert_close(tangent, expected[1], rtol=1e-12, atol=1e-14)
    for one, other in zip(gradients, expected[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "autocast"), MODES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_recorded_products_save_a_forward_and_change_nothing(tiny_causal_lm, family, adapter, autocast):
    torch.manual_seed(1)
    model = agent(tiny_causal_lm, family, adapter, checkpointing=False)
    torch.manual_seed(0)
    state, direction = torch.randn(2, LENGTH, WIDTH), torch.randn(2, LENGTH, WIDTH)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def policy(s):
        return model(inputs_embeds=s, use_cache=False).logits

    def gradient(recorded):
        output, tangent = directional_jacobian(policy, state, direction, products=recorded)
        gradients = torch.autograd.grad(tangent.float().square().sum(), parameters, allow_unused=True)
        return output, torch.cat([g.flatten() for g in gradients if g is not None])

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        with RecordedProducts() as recorded, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            forward = products(lambda: policy(state))
        plain = products(lambda: gradient(None))
        # Attention is computed again: its products are of two duals.
        assert 0.5 * forward < plain - products(lambda: gradient(recorded)) <= forward
        assert products(lambda: gradient(recorded)) == plain  # good for once
        output, expected = gradient(None)
        with RecordedProducts() as recorded, sdpa_kernel(SDPBackend.MATH):
            policy(state)
        shared_output, actual = gradient(recorded)
    if autocast:  # attention rounds elsewhere inside a jvp than outside: neither is nearer to the truth
        _, truth = gradient(None)
        assert relative_error(actual, truth) <= 1.5 * relative_error(expected, truth) < 0.5
    else:
        assert relative_error(shared_output, output) <= 1e-6 and relative_error(actual, expected) <= 1e-6


def test_products_of_another_forward_are_not_used():
    first, second = MLP(width=16), MLP(width=12)
    state, direction = states(3, 3, 4), states(3, 3, 4)
    with RecordedProducts() as recorded:
        first(state)
    _, expected = directional_jacobian(second, state, direction)
    _, actual = directional_jacobian(second, state, direction, products=recorded)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "name",
    ["_unwrap_for_grad", "_wrap_for_grad", "is_gradtrackingtensor", "maybe_get_level", "peek_interpreter_stack"],
)
def test_a_moved_internal_is_named_in_a_sentence(name, monkeypatch):
    """
    If the import itself fails here, a torch release has moved one of the internals: the message says which, and
    `aajr_hf/_compat/functorch.py` is the one file to adapt.
    """
    monkeypatch.delattr(torch._C._functorch, name)
    with pytest.raises(ImportError, match=rf"PyTorch .* moved an internal of functorch .*{name}.*constraints\.txt"):
        importlib.reload(functorch)


def test_the_internals_still_mean_what_they_meant():
    level = None

    def round_trip(x):
        nonlocal level
        level = _forward_mode.retrieve_current_functorch_interpreter().level()
        assert _forward_mode._is_at(x, level) and not _forward_mode._is_at(constant, level)
        primal, tangent = _forward_mode._split(x, level)
        with _forward_mode.temporarily_pop_interpreter_stack():
            assert _forward_mode.peek_interpreter_stack() is None
            primal, tangent = primal.sin(), primal.cos() * tangent
        assert _forward_mode.peek_interpreter_stack() is not None
        return _forward_mode._join(primal, tangent, level)

    constant = states(3)
    state, direction = states(3), states(3)
    message = (
        f"torch {torch.__version__} changed how functorch nests its levels: exact Jacobian products under activation "
        "checkpointing would be wrong. Adapt aajr_hf/objective/_forward_mode.py, the one file that depends on it."
    )
    output, tangent = torch.func.jvp(round_trip, (state,), (direction,))
    assert torch.equal(output, state.sin()) and torch.equal(tangent, state.cos() * direction), message
    assert _forward_mode.peek_interpreter_stack() is None, message
