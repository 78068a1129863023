"""Packed rows and padding-free batches: several documents in one row, which must not see each other."""

from __future__ import annotations

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from trl import pack_dataset

from ..config.sft import AAJRConfig

# Largest change of a document's logits by the document before it, relative to the norm of the logits.
_LEAK = 1e-5


def pack(dataset: Dataset | IterableDataset, args: AAJRConfig) -> Dataset | IterableDataset:
    """Pack prepared examples as TRL does, and keep the column of AAJR, which TRL would drop."""
    names = dataset.column_names or list(next(iter(dataset)))
    columns = [name for name in ("input_ids", "labels", "observation_mask") if name in names]
    dataset = pack_dataset(dataset.select_columns(columns), args.max_length, args.packing_strategy)
    return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset


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
        return (str(error).strip() or type(error).__name__).splitlines()[0]
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
