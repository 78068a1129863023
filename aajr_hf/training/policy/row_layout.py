"""Whether a model treats an example alike wherever it lies in a row: behind padding, or behind another document."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..._errors import first_line

# Largest change of a document's logits by the document before it, relative to the norm of the logits.
_LEAK = 1e-5


@torch.no_grad()
def position_failure(model: nn.Module) -> str | None:
    """
    Why this model treats left-padded rows, as TRL scores them, differently from right-padded rows; None if it treats
    them alike.
    """
    ids = torch.tensor([[1, 2, 3, 0, 0], [0, 0, 1, 2, 3]], device=model.device)
    mask = (ids > 0).long()
    was_training = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    finally:
        model.train(was_training)
    right, left = logits[0, :3], logits[1, 2:]
    change = float((right - left).norm() / right.norm())
    found = f"padding before a prompt changes its logits by {change:.1e} of their norm"
    rounding = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)  # rotary angles are float32
    return found if change > rounding**0.5 else None


@torch.no_grad()
def packing_failure(model: nn.Module) -> str | None:
    """
    Why this model treats documents in one row differently from single documents; None if it treats them alike. Its
    attention and its positions must begin anew where `position_ids` do.
    """
    # The same second document after two different first documents.
    first, other, second = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5], [4, 2, 9, 3, 7]], device=model.device)
    was_training = model.training
    model.eval()
    try:
        behind_first, behind_other = (_logits(model, document, second)[len(first) :] for document in (first, other))
        alone = _logits(model, second)
    except (RuntimeError, ValueError, TypeError) as error:
        return first_line(error)
    finally:
        model.train(was_training)
    # Masked tokens must have no effect, in any precision (but experts may be summed in another order). Other places
    # in the row may lead to other rounding.
    if (change := _change(behind_other, behind_first)) > _LEAK:
        return f"the document before it changes a document's logits by {change:.1e} of their norm"
    if (change := _change(behind_first, alone)) > torch.finfo(alone.dtype).eps ** 0.5:
        return f"its place in the row changes a document's logits by {change:.1e} of their norm"
    return None


def _logits(model: nn.Module, *documents: Tensor) -> Tensor:
    position_ids = torch.cat([torch.arange(len(ids), device=ids.device) for ids in documents])[None]
    return model(input_ids=torch.cat(documents)[None], position_ids=position_ids, use_cache=False).logits[0]


def _change(one: Tensor, another: Tensor) -> float:
    return float((one - another).float().norm() / another.float().norm())
