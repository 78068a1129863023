"""The input embeddings of a model, whatever PEFT has wrapped around them, and the number of its positions."""

from __future__ import annotations

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

# Tables of positions may have a few more rows than positions, as OPT's.
_SPARE_ROWS = 8


def embedding_shape(model: PreTrainedModel) -> tuple[int, int]:
    """
    Number and width of a model's input embeddings. They are read from the weight, because the modules in which PEFT
    wraps embeddings have a weight, but not the other attributes of `nn.Embedding`.
    """
    weight = model.get_input_embeddings().weight
    # ZeRO-3 keeps the shape of a split weight beside it.
    rows, width = getattr(weight, "ds_shape", weight.shape)
    return int(rows), int(width)


def merging_changes_the_head(model: PeftModel) -> bool:
    """
    Whether an adapter on the embeddings or the LM head cannot be merged, because both share one weight: merged into
    it, the adapter of one would also change the other.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    adapted = isinstance(embedding, BaseTunerLayer) or isinstance(head, BaseTunerLayer)
    return adapted and embedding.weight is head.weight


def position_limit(model: PreTrainedModel) -> tuple[int | None, bool]:
    """
    Largest number of positions that a model was made for (None if its configuration does not say), and whether it
    cannot compute more: its positions are rows of a table, learned or precomputed, and not angles.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return None, False
    words = model.get_input_embeddings()
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]
    tables += [buffer for name, buffer in model.named_buffers() if "pos" in name and buffer.ndim == 2]
    rows = [getattr(table, "ds_shape", table.shape)[0] for table in tables]
    return limit, any(limit <= number <= limit + _SPARE_ROWS for number in rows)
