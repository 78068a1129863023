"""Names that one of the allowed releases of Transformers has changed."""

from __future__ import annotations

import dataclasses

from transformers import TrainingArguments

_FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}
# Deprecated names of fields, and their new names since Transformers 5.23.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
ALIASES = {old: new for old, new in _RENAMED.items() if new in _FIELDS}
# The field that turns activation checkpointing on.
CHECKPOINTING = ALIASES.get("gradient_checkpointing", "gradient_checkpointing")


def use_new_names(args: TrainingArguments) -> None:
    """
    Copy values that were set under a deprecated name to the new name, if Transformers has it. A value that was set
    under the new name stays. Call this before the `__post_init__` of Transformers, which would warn, even about TRL's
    defaults.
    """
    for old, new in ALIASES.items():
        if getattr(args, new) is None:
            setattr(args, new, getattr(args, old))
