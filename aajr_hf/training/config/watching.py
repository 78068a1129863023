"""Fields that watch the loss under attack while an agent is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import AdversaryFields


@dataclass
class WatchFields:
    r"""
    What is measured on a fixed probe during training, and what follows from it. The probe has the first 32 rows of the
    training data.

    Parameters:
        > Parameters that watch the loss under attack

        rollback_tolerance (`float`, *optional*):
            Largest rise of the attacked loss, in units of the system loss. Every `rollback_interval` steps, the adversary attacks
            the probe at the full epsilon, with at least ten ascent steps. If the probe's mean loss is higher than the lowest so
            far by more than this, the weights and the optimizer go back to the last state that was accepted, and the learning rate
            is halved for the rest of the run. If `None`, there is no probe. Not with GRPO, FSDP or DeepSpeed.
        rollback_interval (`int`, *optional*, defaults to `10`):
            Number of optimizer steps between two measurements of the probe. Each takes a further ascent on 32 examples.
        overfitting_interval (`int`, *optional*, defaults to `0`):
            Every n-th optimizer step, attack the probe with the training's own ascent and with ten steps, and log success under
            both, and the cosine of the first two directions. If success under ten steps is lower by more than a quarter of the
            examples, a warning says so once: the agent has overfitted to the ascent of its training (catastrophic overfitting).
            `0`: never. Needs `ascent_steps` below 10. Not with GRPO, FSDP or DeepSpeed.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    rollback_tolerance: float | None = field(
        default=None,
        metadata={
            "help": "Largest rise of the attacked loss of a fixed probe. Beyond it, weights and optimizer go back to the last good "
            "state, and the learning rate is halved."
        },
    )
    rollback_interval: int = field(
        default=10, metadata={"help": "Number of optimizer steps between two measurements of the probe of a rollback."}
    )
    overfitting_interval: int = field(
        default=0,
        metadata={
            "help": "Every n-th optimizer step, compare success under the training's own ascent with success under ten steps, and warn if "
            "they part ways. 0: never."
        },
    )
