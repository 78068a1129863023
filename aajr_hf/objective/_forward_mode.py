"""
Forward-mode differentiation of unmodified models. On its own, `torch.func.jvp` refuses activation checkpointing,
differentiates layer norms wrongly, computes linear layers at twice the cost, and makes tangents of zeros.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from .._compat.functorch import (
    is_gradtrackingtensor,
    maybe_get_level,
    peek_interpreter_stack,
    retrieve_current_functorch_interpreter,
    temporarily_pop_interpreter_stack,
    tree_flatten,
    tree_unflatten,
    unwrap_for_grad,
    wrap_for_grad,
)


@contextlib.contextmanager
def forward_mode(products: RecordedProducts | None = None) -> Generator[None]:
    """
    Context for `torch.func.jvp`. It activates [`_ForwardModeFunctions`] and the math kernel of scaled dot-product
    attention, the only kernel whose forward-mode derivatives can be differentiated again.

    Args:
        products: Outputs of the linear layers for the same state, recorded by an earlier forward pass.
    """
    with sdpa_kernel(SDPBackend.MATH), _ForwardModeFunctions(products):
        yield


# Address of a layer's weight, and shape of its input.
_Call = tuple[int, torch.Size]


class RecordedProducts(TorchFunctionMode):
    """
    Recorder of the outputs of all linear layers, so that a jvp at the same state does not compute them again. Use it
    as a context for one forward pass of the policy, then pass it to [`directional_jacobian`], once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._products: list[tuple[_Call, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _LINEAR_FUNCTIONS and not kwargs:
            input, weight, _ = _LINEAR_FUNCTIONS[func](*args)
            self._products.append((_call(input, weight), output.detach()))
        return output

    def next(self, input: Tensor, weight: Tensor) -> Tensor | None:
        """Output of the next layer; None as soon as a call differs from the recorded call."""
        call, product = self._products.pop(0) if self._products else (None, None)
        if call != _call(input, weight):
            self._products.clear()
            return None
        return product


def _call(input: Tensor, weight: Tensor) -> _Call:
    return weight.data_ptr(), input.shape


def checkpointed(
    layer: Callable[..., Any], *args: Any, context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Any:
    """
    Call `layer(*args)` with activation checkpointing (non-reentrant), also while `torch.func.jvp` runs. The layer's
    inputs and their tangents are kept for the backward pass, which recomputes the layer's own jvp. The layer runs in
    the given context and attention uses its math kernel, in the recomputation too. The function can replace the
    `_gradient_checkpointing_func` of a transformers layer.

    `torch.utils.checkpoint` cannot see the dual tensors of a running jvp. Therefore they are split, the jvp's level is
    left, and the checkpointed function is an inner jvp of plain tensors, whose results are joined to dual tensors
    again.
    """
    if isinstance(layer, functools.partial):  # transformers binds keyword arguments, which may be dual tensors, too
        layer, args, kwargs = layer.func, (*layer.args, *args), layer.keywords
    else:
        kwargs: dict[str, Any] = {}

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Entered here, because the recomputation happens after the caller's own context has ended.
        with forward_mode(), context():
            return layer(*args, **kwargs)

    if peek_interpreter_stack() is None:
        return checkpoint(run, args, kwargs, use_reentrant=False)

    level = retrieve_current_functorch_interpreter().level()
    leaves, spec = tree_flatten((args, kwargs))
    tangents: dict[int, Tensor] = {}
    for i, leaf in enumerate(leaves):
        if _is_at(leaf, level):
            leaves[i], tangent = _split(leaf, level)
            if tangent is not None:
                tangents[i] = tangent
    if not tangents:  # nothing that the layer sees is differentiated
        with temporarily_pop_interpreter_stack():
            return checkpoint(run, *tree_unflatten(leaves, spec), use_reentrant=False)
    # The outputs that are not tensors, and the nesting of all outputs.
    others: dict[int, Any] = {}
    output_spec: Any = None

    def run_dual(primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Any:
        def call(*duals: Tensor) -> tuple[Tensor, ...]:
            nonlocal output_spec
            for i, dual in zip(positions, duals, strict=True):
                inputs[i] = dual
            outputs, output_spec = tree_flatten(run(*tree_unflatten(inputs, spec)))
            others.update((i, output) for i, output in enumerate(outputs) if not isinstance(output, Tensor))
            return tuple(output for output in outputs if isinstance(output, Tensor))

        inputs = list(leaves)
        return torch.func.jvp(call, primals, tangents)

    positions = list(tangents)
    primals = tuple(leaves[i] for i in positions)
    with temporarily_pop_interpreter_stack():
        outputs = checkpoint(run_dual, primals, tuple(tangents.values()), use_reentrant=False)
    duals = (_join(primal, tangent, level) for primal, tangent in zip(*outputs, strict=True))
    return tree_unflatten(
        [others[i] if i in others else next(duals) for i in range(output_spec.num_leaves)], output_spec
    )


def _of_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _of_addmm(bias: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight.t(), bias


# Functions that multiply by a weight, and how to get (input, weight, bias) of `linear` from their arguments.
_LINEAR_FUNCTIONS: dict[Any, Callable[..., tuple[Tensor, Tensor, Tensor | None]]] = {
    torch.nn.functional.linear: _of_linear,
    torch.addmm: _of_addmm,
}


# Operations of a dual tensor and a constant: those that scale both primal and tangent, and those that shift the primal.
_QUOTIENTS, _DIFFERENCES = {Tensor.div, torch.div}, {Tensor.sub, torch.sub}
_SCALINGS = {Tensor.mul, torch.mul} | _QUOTIENTS
_SHIFTS = {Tensor.add, torch.add} | _DIFFERENCES


class _ForwardModeFunctions(TorchFunctionMode):
    """
    Context in which some PyTorch functions are computed in another way.

    `layer_norm`: from elementary operations. When the jvp of PyTorch's own function is differentiated, the saved mean
    and deviation count as constants: the value is right, but the gradient is silently wrong
    (https://github.com/pytorch/pytorch/issues/196700).

    `linear` (and `addmm`) of a dual input and a plain weight: one product for the primal, unless it is known already,
    and one for the tangent. PyTorch's own jvp also creates a tangent of zeros for the weight and multiplies by it.

    `mul`, `div`, `add`, `sub` of a dual tensor and a constant: without the tangent of zeros that PyTorch's own jvp gives
    to the constant.

    `to` of a tensor outside the jvp: the result stays outside, too. Modules keep this result (PEFT's SHiRA does), and
    after a jvp has ended, its tensors can be neither used nor saved.
    """

    def __init__(self, products: RecordedProducts | None = None) -> None:
        super().__init__()
        self._products = products

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.layer_norm or func is torch.layer_norm:
            return self._layer_norm(*args, **kwargs)
        if func in _LINEAR_FUNCTIONS and not kwargs:
            return self._linear(*_LINEAR_FUNCTIONS[func](*args))
        if (func in _SCALINGS or func in _SHIFTS) and len(args) == 2 and not kwargs:
            return self._with_constant(func, *args)
        if func is Tensor.to and peek_interpreter_stack() is not None and not is_gradtrackingtensor(args[0]):
            with temporarily_pop_interpreter_stack():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> Tensor:
        """`torch.layer_norm`, computed in at least fp32; the output has the original's dtype, also under autocast."""
        shape = tuple(normalized_shape)
        dtype = torch.layer_norm(torch.empty((0, *shape), dtype=input.dtype, device=input.device), shape).dtype
        dims = tuple(range(-len(shape), 0))
        with self:  # in its own `__torch_function__`, a mode is off
            output = input.to(torch.promote_types(input.dtype, torch.float32))
            output = output - output.mean(dims, keepdim=True)
            output = output * (output.square().mean(dims, keepdim=True) + eps).rsqrt()
            if weight is not None:
                output = output * weight
            if bias is not None:
                output = output + bias
            return output.to(dtype)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        linear = torch.nn.functional.linear
        if peek_interpreter_stack() is None:
            return linear(input, weight, bias)
        level = retrieve_current_functorch_interpreter().level()
        primal, tangent = _parts(input, level)
        plain_weight, of_weight = _parts(weight, level)
        plain_bias, of_bias = (None, None) if bias is None else _parts(bias, level)
        product = None if self._products is None else self._products.next(primal, plain_weight)
        if tangent is None or of_weight is not None or of_bias is not None:
            return linear(input, weight, bias)
        with temporarily_pop_interpreter_stack():
            if product is None:
                output = linear(primal, plain_weight, plain_bias)
            else:
                output = _KnownLinear.apply(primal.to(product.dtype), plain_weight, plain_bias, product)
            output_tangent = linear(tangent, plain_weight)
        return _join(output, output_tangent, level)

    def _with_constant(self, func: Callable[..., Tensor], x: Any, y: Any) -> Tensor:
        if peek_interpreter_stack() is None:
            return func(x, y)
        level = retrieve_current_functorch_interpreter().level()
        first = _is_at(x, level)
        if first == _is_at(y, level) or (func in _QUOTIENTS and not first):
            return func(x, y)
        primal, tangent = _split(x if first else y, level)
        if tangent is None:
            return func(x, y)
        with temporarily_pop_interpreter_stack():
            output = func(primal, y) if first else func(x, primal)
            if func in _SCALINGS:
                tangent = func(tangent, y) if first else func(x, tangent)
            else:
                negative = func in _DIFFERENCES and not first
                tangent = (-tangent if negative else tangent).to(output.dtype).expand(output.shape)
        return _join(output, tangent, level)


class _KnownLinear(torch.autograd.Function):
    """
    `linear` with a known output: no computation in the forward pass, the usual one in the backward pass. (Its parent's
    methods take any arguments, so theirs cannot be fixed for a type checker.)
    """

    @staticmethod
    # pyrefly: ignore[bad-override]
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, product: Tensor) -> Tensor:
        # Save only what a gradient needs, and the weight without a copy in the product's type.
        of_input, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(input if of_weight else None, weight if of_input else None)
        return product.view_as(product)

    @staticmethod
    # pyrefly: ignore[bad-override]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            gradient @ weight.to(gradient.dtype) if wanted[0] else None,
            rows.t() @ input.flatten(0, -2) if wanted[1] else None,
            rows.sum(dim=0) if wanted[2] else None,
            None,
        )


def _is_at(value: Any, level: int) -> bool:
    return isinstance(value, Tensor) and is_gradtrackingtensor(value) and maybe_get_level(value) == level


def _split(dual: Tensor, level: int) -> tuple[Tensor, Tensor | None]:
    """
    Primal and tangent of a tensor of the running jvp, as tensors below its level; the tangent is None if the tensor is
    constant.
    """
    primal, tangent = forward_ad.unpack_dual(dual)
    return _below(primal, level), None if tangent is None else _below(tangent, level)


def _below(part: Tensor, level: int) -> Tensor:
    return unwrap_for_grad(part, level) if _is_at(part, level) else part


def _parts(value: Tensor, level: int) -> tuple[Tensor, Tensor | None]:
    """[`_split`] of a tensor that may be outside the running jvp."""
    return _split(value, level) if _is_at(value, level) else (value, None)


def _join(primal: Tensor, tangent: Tensor, level: int) -> Tensor:
    primal = wrap_for_grad(primal, level)
    # Integers, such as a router's choice, have no tangent.
    return forward_ad.make_dual(primal, wrap_for_grad(tangent, level)) if primal.is_floating_point() else primal
