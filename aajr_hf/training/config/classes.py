"""Fields that treat examples by their class."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import AdversaryFields


@dataclass
class ClassFields:
    r"""
    A radius for each example, by how rare its class is.

    Parameters:
        > Parameters that depend on an example's class

        long_tail_alpha (`float`, *optional*, defaults to `0.0`):
            How much the radius and the step size depend on the class of an example. With n_y training rows of class y and
            `w_y = sqrt(log(n_max / n_y))`, epsilon is multiplied by `1 - alpha + alpha w_y / mean w`: the largest class gets
            `1 - alpha`, rare classes more, and the mean over the rows is 1. If all classes are equally frequent, all factors are
            1. `0`: one epsilon for all. At least 0, below 1. Not with `packing` and streamed data.
        class_column (`str`, *optional*, defaults to `"action"`):
            The class of an example: the value of this column of the data. If there is no such column, `"action"` takes the class
            from the answer: the first tool that it calls, or the word in which the row's `actions` differ, or its first word.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    long_tail_alpha: float = field(
        default=0.0,
        metadata={
            "help": "How much larger epsilon is for rare classes, and smaller for frequent ones; the mean over the rows stays. 0: one "
            "epsilon for all."
        },
    )
    class_column: str = field(
        default="action",
        metadata={
            "help": "Column with the class of an example; action, where no column has this name: the answer's first tool, or the word "
            "in which the row's `actions` differ, or its first word."
        },
    )
