"""A sum whose terms are differentiated one by one, so that the graph of only one term is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def sum_one_by_one(terms: Iterable[Tensor], parameters: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """
    Sum scalars, and compute the gradient of each before the next one is made. The sum's own backward pass then only
    hands over the gradients that are already known, so a trainer may add it to any loss.

    This takes the memory of one more copy of the parameters that require gradients, instead of one graph per term.

    Args:
        terms: Iterator that makes each scalar with its graph when it is asked for it.
        parameters: The tensors that are trained.
        scale: Factor by which losses are multiplied before they are differentiated, so that gradients in fp16 do not
            vanish.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients: list[Tensor | None] = [None] * len(trained)
    total = torch.zeros((), device=trained[0].device)
    for term in terms:
        total = total + term.detach()
        # The forward pass may run under autocast, a backward pass should not.
        with torch.autocast(term.device.type, enabled=False):
            for i, new in enumerate(torch.autograd.grad(term * scale, trained, allow_unused=True)):
                if new is not None:
                    gradients[i] = new if gradients[i] is None else gradients[i].add_(new)
        del term  # else its graph stays until the next one is there
    return _WithKnownGradient.apply(total, scale, gradients, *trained)


class _WithKnownGradient(torch.autograd.Function):
    """A value whose gradient with respect to the parameters is known."""

    @staticmethod
    def forward(ctx, value, scale, gradients, *parameters):
        ctx.scale, ctx.gradients = scale, gradients
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        known, ctx.gradients = ctx.gradients, None  # each backward pass has a sum of its own
        factor = gradient / ctx.scale
        return None, None, None, *(None if g is None else g.mul_(factor) for g in known)
