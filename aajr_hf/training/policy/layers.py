"""The input of a decoder layer: to read it, and to shift it (latent adversarial training, arXiv 2403.05030)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """
    The list of a model's decoder layers.

    Raises:
        ValueError: if no list has as many modules as the model has layers; names the field.
    """
    inner = getattr(model, "module", model)
    number = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ValueError("`perturbed_layer`: the decoder layers of this model are not found: set it to 0.")


@contextlib.contextmanager
def at_input_of(model: nn.Module, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """
    Context in which a function is applied to the hidden states (rows, tokens, d) at the input of a layer. It is applied
    outside the layer itself, so that a layer under activation checkpointing gets the result as an argument.
    """
    layers = decoder_layers(model)
    inner = layers[layer]
    layers[layer] = _Changed(inner, change)
    try:
        yield
    finally:
        layers[layer] = inner


class _Changed(nn.Module):
    """A layer behind a function of its input. Models read attributes of their layers, so it has those of the layer."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.change = inner, change
        self.training = inner.training

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args, **kwargs):
        if args:
            return self.inner(self.change(args[0]), *args[1:], **kwargs)
        return self.inner(**kwargs | {"hidden_states": self.change(kwargs["hidden_states"])})
