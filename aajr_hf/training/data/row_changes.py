"""What is done to training rows before the chat template writes them: words are masked, and triggers are put in."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from .incidental import masked
from .roles import OBSERVED_ROLES
from .tool_schema import RowError
from .triggers import with_trigger

_ROLES = OBSERVED_ROLES["observation"]
# What a row says of what was done to it.
MASKED, NOTHING_TO_MASK, TRIGGERED = "masked", "nothing to mask", "triggered"


@dataclass(frozen=True)
class RowChanges:
    """
    Function from a canonical row to the changed row, and to a list of what was done. What is drawn depends on the seed and
    on what the row says, so that it does not depend on the other rows.

    Attributes:
        triggers: Texts of triggers; one of them is drawn for a row.
        trigger_share: Share of the rows that get a trigger.
        mask_share: Share of the rows whose incidental words are masked.
        mask_marker: What stands in place of a masked word; `{type}` becomes its type.
        seed: Seed of what is drawn.

    Raises:
        RowError: if a row that should get a trigger has no message of a user or a tool.
    """

    triggers: tuple[str, ...] = ()
    trigger_share: float = 0.0
    mask_share: float = 0.0
    mask_marker: str = ""
    seed: int = 0

    def __bool__(self) -> bool:
        return self.mask_share > 0 or bool(self.triggers and self.trigger_share > 0)

    def __call__(self, row: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        name = "prompt" if "prompt" in row else "messages"
        said, done = json.dumps(row[name], ensure_ascii=False), []
        drawn = random.Random(f"mask {self.seed} {said}")
        if drawn.random() < self.mask_share:
            changed = masked(row, self.mask_marker, _ROLES)
            row, done = (row, [NOTHING_TO_MASK]) if changed is None else (changed, [MASKED])
        drawn = random.Random(f"trigger {self.seed} {said}")
        if self.triggers and drawn.random() < self.trigger_share:
            messages = with_trigger(row[name], drawn.choice(self.triggers), _ROLES)
            if messages is None:
                raise RowError("has no message of a user or a tool before an answer, where a trigger could stand")
            row, done = row | {name: messages}, [*done, TRIGGERED]
        return row, done
