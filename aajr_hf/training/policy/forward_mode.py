"""Preparation of a language model for forward-mode differentiation: activation checkpointing, experts and hooks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch import nn

from ...objective import checkpointed


@contextlib.contextmanager
def forward_ad_ready(model: nn.Module) -> Iterator[None]:
    """
    Context in which `torch.func.jvp` works on the model: activation checkpointing uses a function that supports
    forward mode, experts are computed one by one, and the hooks of `enable_input_require_grads`, which do not support
    it, are removed.
    """
    hooks = getattr(model, "module", model).get_input_embeddings()._forward_hooks
    all_hooks = dict(hooks)
    for key, hook in all_hooks.items():
        # Find the hooks by name: if they were enabled twice, transformers has no handle of the first one.
        if getattr(hook, "__name__", "").startswith("make_inputs_require_grad"):
            del hooks[key]
    try:
        with forward_mode_checkpointing(model), experts_one_by_one(model):
            yield
    finally:
        hooks.clear()
        hooks.update(all_hooks)


@contextlib.contextmanager
def forward_mode_checkpointing(model: nn.Module) -> Iterator[None]:
    """Context in which layers with activation checkpointing use [`~aajr_hf.objective.checkpointed`]."""
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    functions = [layer._gradient_checkpointing_func for layer in layers]
    for layer in layers:
        layer._gradient_checkpointing_func = functools.partial(
            checkpointed, context=functools.partial(experts_one_by_one, model)
        )
    try:
        yield
    finally:
        for layer, function in zip(layers, functions, strict=True):
            layer._gradient_checkpointing_func = function


@contextlib.contextmanager
def experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """
    Context in which a mixture of experts computes one expert after the other, because the grouped product, which is
    the default of transformers, has no forward mode. Finite differences are no alternative: if the router chooses
    other experts within the step, the difference has a jump, which is then divided by the step.
    """
    config = getattr(getattr(model, "module", model), "config", None)
    if getattr(config, "_experts_implementation", None) != "grouped_mm":
        yield
        return
    config._experts_implementation = "eager"
    try:
        yield
    finally:
        config._experts_implementation = "grouped_mm"
