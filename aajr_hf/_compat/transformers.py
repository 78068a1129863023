"""Names of Transformers that one of the allowed releases has changed."""

from __future__ import annotations

import dataclasses

from transformers import TrainingArguments

_FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}
# Deprecated names of fields, and those that Transformers 5.23 gave them.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
ALIASES = {old: new for old, new in _RENAMED.items() if new in _FIELDS}
# The field that says whether activations are computed again for the backward pass.
CHECKPOINTING = ALIASES.get("gradient_checkpointing", "gradient_checkpointing")


def use_new_names(args: TrainingArguments) -> None:
    """
    Give what was set under a deprecated name the new one, where Transformers has it: to be called before its own
    `__post_init__`, which would warn, of a default of TRL's too. What was set under the new name stays.
    """
    for old, new in ALIASES.items():
        if getattr(args, new) is None:
            setattr(args, new, getattr(args, old))
