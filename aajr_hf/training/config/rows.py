"""Fields that change the rows which are trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import AdversaryFields


@dataclass
class RowFields:
    r"""
    What is done to the training rows before they are tokenized. The rows of the evaluation stay as they are.

    Parameters:
        > Parameters that change the training rows

        triggers (`str`, *optional*):
            JSON file of triggers (`aajr triggers`): texts that stand at the end of what a user or a tool says, while the right
            answer stays the same. With `epsilon` above 0, the adversary moves the embeddings of the triggered prompts.
        trigger_share (`float`, *optional*, defaults to `0.5`):
            Share of the rows that get a trigger, drawn at random from the file: `0` leaves all rows as they are, `1.0` puts a
            trigger into every row. With `1.0`, more answers are right under triggers, and fewer without (docs/results/trigger.md).
        mask_share (`float`, *optional*, defaults to `0.0`):
            Share of the rows in which numbers and names that the calls do not use are masked; `0` leaves all rows as they are.
            Which words these are is known from the calls and the JSON Schemas of the tools, so other rows stay as they are.
        mask_marker (`str`, *optional*, defaults to `"[{type}]"`):
            What stands in place of a masked word. `{type}` becomes `NUMBER` or `NAME`.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    triggers: str | None = field(
        default=None,
        metadata={
            "help": "JSON file of triggers (`aajr triggers`): texts that stand at the end of what a user or a tool says, while the "
            "right answer stays the same."
        },
    )
    trigger_share: float = field(
        default=0.5, metadata={"help": "Share of the training rows that get a trigger of `triggers`."}
    )
    mask_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training rows in which numbers and names that the calls do not use are masked. Which words these "
            "are is known from the calls and the schemas of the tools."
        },
    )
    mask_marker: str = field(
        default="[{type}]",
        metadata={"help": "What stands in place of a masked word; {type} becomes NUMBER or NAME."},
    )
