"""Products and sums with a constant inside a jvp: the numbers of `torch.func.jvp`, without its tangents of zeros."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aajr_hf.objective._forward_mode import forward_mode

OPERATIONS = {
    "x * c": lambda x, c: x * c,
    "c * x": lambda x, c: c * x,
    "x / c": lambda x, c: x / c,
    "c / x": lambda x, c: c / x,
    "x + c": lambda x, c: x + c,
    "c + x": lambda x, c: c + x,
    "x - c": lambda x, c: x - c,
    "c - x": lambda x, c: c - x,
    "torch.mul": torch.mul,
    "torch.sub, reversed": lambda x, c: torch.sub(c, x) if isinstance(c, Tensor) else torch.rsub(x, c),
    "torch.add with alpha": lambda x, c: torch.add(x, c, alpha=3),
    "torch.div, rounded": lambda x, c: torch.div(x, c, rounding_mode="trunc") + x,
    "of two dual tensors": lambda x, c: (x * x - x / (1 + x * x)) * c,
    "of a detached one": lambda x, c: x.detach() * c + x.detach() * x,
}
CONSTANTS = {
    "number": 2.5,
    "scalar": torch.tensor(-1.5, dtype=torch.float64),
    "same shape": torch.rand(3, 1, 4, dtype=torch.float64) + 0.5,
    "broadcast": torch.rand(2, 4, dtype=torch.float64) + 0.5,  # the output is larger than the dual tensor
    "mask": torch.tensor([True, False, True, True]),
    "half": torch.rand(4).to(torch.bfloat16) + 0.5,
}


# PyTorch refuses to subtract a mask.
PAIRS = [(f, c) for f in OPERATIONS for c in CONSTANTS if not (c == "mask" and ("-" in f or "sub" in f))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("operation", "constant"), PAIRS)
def test_value_tangent_and_gradients_are_those_of_pytorch(operation, constant, dtype):
    f, c = OPERATIONS[operation], CONSTANTS[constant]
    x, tangent = torch.randn(3, 1, 4, dtype=dtype, requires_grad=True), torch.randn(3, 1, 4, dtype=dtype)
    weight = c.clone().requires_grad_() if isinstance(c, Tensor) and c.is_floating_point() else c

    def run():
        output, derivative = torch.func.jvp(lambda x: f(x, weight), (x,), (tangent,))
        loss = output.double().square().sum() + derivative.double().pow(3).sum()
        wanted = [x] if weight is c else [x, weight]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        return output, derivative, *(torch.zeros(()) if g is None else g for g in gradients)

    expected = run()
    with forward_mode():
        actual = run()
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        torch.testing.assert_close(a, e)


def test_no_tangent_of_zeros_is_made():

    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.add(func.name())
            return func(*args, **(kwargs or {}))

    x, c = torch.randn(3), torch.rand(3)
    for context, found in ((torch.enable_grad(), True), (forward_mode(), False)):
        with Seen() as seen, context:
            torch.func.jvp(lambda x: (x * c - c) / c + 1.0, (x,), (x,))
        assert ("aten::_efficientzerotensor" in seen.names) == found
