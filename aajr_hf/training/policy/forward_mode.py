"""Getting a language model ready for forward-mode differentiation: activation checkpointing, experts and hooks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch import nn

from ...objective import checkpointed


@contextlib.contextmanager
def forward_ad_ready(model: nn.Module) -> Iterator[None]:
    """
    Inside, `torch.func.jvp` runs through the model: layers with activation checkpointing by a function that forward
    mode passes through, experts one by one, and without the hooks of `enable_input_require_grads`, which it does not.
    """
    hooks = getattr(model, "module", model).get_input_embeddings()._forward_hooks
    all_hooks = dict(hooks)
    for key, hook in all_hooks.items():
        # Found by name: transformers keeps no handle of the first one where it was enabled twice.
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
    """Inside, every layer with activation checkpointing does it by [`~aajr_hf.objective.checkpointed`]."""
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
    Inside, a mixture of experts computes one expert after the other: the grouped product that transformers takes by
    default has no forward mode. Finite differences would be no way out, since a router that chooses other experts
    within the step adds a jump to the difference, which is divided by the step.
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
