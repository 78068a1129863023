"""An adapter is tried on a model without weights: what PEFT refuses, it refuses before weights and data are read."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from peft import PeftConfig, get_peft_model
from transformers import PreTrainedModel

from ..._errors import first_line


def check_adapter(config: PeftConfig, skeleton: PreTrainedModel, fields: str) -> None:
    """
    Add an adapter to a model whose parameters are on the device `meta`, which is changed.

    Args:
        fields: How the error message calls the settings of the adapter.

    Raises:
        ValueError: if PEFT refuses it; the message begins with `fields`.
    """
    with refused_by_peft(fields), contextlib.suppress(_NeedsWeights):
        try:
            model = get_peft_model(skeleton, copy.deepcopy(config), low_cpu_mem_usage=True)
        except Exception as error:
            if "meta" in str(error):
                raise _NeedsWeights from error
            raise
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("no parameter of the model would be trained")


@contextlib.contextmanager
def refused_by_peft(fields: str) -> Iterator[None]:
    """
    Name the settings of an adapter in errors that do not name a field.

    Raises:
        ValueError: for any such error; the message begins with `fields`.
    """
    try:
        yield
    except Exception as error:  # an option of a wrong type can raise any error
        if str(error).startswith("`adapter"):
            raise
        raise ValueError(f"{fields} do not work together: {type(error).__name__}: {first_line(error)}") from error


class _NeedsWeights(Exception):
    """Some adapters begin with values that are computed from the weights."""
