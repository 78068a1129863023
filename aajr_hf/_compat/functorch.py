"""All internals of functorch that exact Jacobian products need. This file imports only torch."""

from __future__ import annotations

import torch

try:
    from torch._C._functorch import (
        _unwrap_for_grad,
        _wrap_for_grad,
        is_gradtrackingtensor,
        maybe_get_level,
        peek_interpreter_stack,
    )
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter, temporarily_pop_interpreter_stack
    from torch.utils._pytree import tree_flatten, tree_unflatten
except ImportError as error:
    raise ImportError(
        f"PyTorch {torch.__version__} has moved an internal of functorch that exact Jacobian products need ({error}): "
        "install the torch version in constraints.txt, or adapt aajr_hf/_compat/functorch.py, the only file "
        "that imports it."
    ) from error

unwrap_for_grad, wrap_for_grad = _unwrap_for_grad, _wrap_for_grad

__all__ = [
    "is_gradtrackingtensor",
    "maybe_get_level",
    "peek_interpreter_stack",
    "retrieve_current_functorch_interpreter",
    "temporarily_pop_interpreter_stack",
    "tree_flatten",
    "tree_unflatten",
    "unwrap_for_grad",
    "wrap_for_grad",
]
