"""
Triggers: short texts, the same for all inputs, that stand at the end of what a user or a tool says. A bank is a JSON
file of triggers, with the agents on which they were found and what they did there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

Messages = list[dict[str, Any]]
_WRITE = "write one with `aajr triggers MODEL --output FILE`"


@dataclass(frozen=True)
class Trigger:
    """
    A trigger of a bank.

    Attributes:
        text: The trigger.
        agent: Name of the agent on which it was found.
        data: World or data set in which it was found.
        tokens: Number of its tokens, for this agent.
        fluency: Weight of the fluency term in the search.
        judge: What measured the fluency: `n-gram`, or the name of a language model; empty without the term.
        examples: Number of other rows on which it was measured.
        nominal, left: Right answers on these rows without and with the trigger, in percent.
        random: Right answers with the best of random triggers whose search costs as much, in percent.
    """

    text: str
    agent: str = ""
    data: str = ""
    tokens: int | None = None
    fluency: float = 0.0
    judge: str = ""
    examples: int | None = None
    nominal: float | None = None
    left: float | None = None
    random: float | None = None


def read_triggers(file: str | Path) -> list[Trigger]:
    """
    Read a bank: `{"triggers": [{"text": ...}, ...]}`. Only `text` is needed.

    Raises:
        ValueError: if the file cannot be read or has another form; names the file and the remedy.
    """
    try:
        read = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): {_WRITE}.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): {_WRITE}.") from error
    listed = read.get("triggers") if isinstance(read, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{file} must hold a list `triggers` with at least one trigger: {_WRITE}.")
    known = {field.name for field in fields(Trigger)}
    for number, one in enumerate(listed):
        text = one.get("text") if isinstance(one, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{file}: trigger {number} must be an object with a `text`: {_WRITE}.")
        if unknown := one.keys() - known:
            raise ValueError(f"{file}: trigger {number} has the unknown field {min(unknown)!r}: remove it.")
    return [Trigger(**one) for one in listed]


def add_to_bank(file: Path, found: list[Trigger]) -> int:
    """
    Add triggers to a bank, which is made if there is none. The file is replaced as a whole, or not at all.

    Returns:
        The number of triggers that the bank then holds.

    Raises:
        ValueError: if the file is not a bank. OSError: if it cannot be written.
    """
    held = (read_triggers(file) if file.exists() else []) + found
    file.parent.mkdir(parents=True, exist_ok=True)
    building = file.with_name(f".{file.name}.part")
    try:
        building.write_text(
            json.dumps({"triggers": [asdict(one) for one in held]}, indent=1, ensure_ascii=False) + "\n"
        )
        os.replace(building, file)
    finally:
        building.unlink(missing_ok=True)
    return len(held)


def with_trigger(messages: Messages, text: str, roles: Collection[str]) -> Messages | None:
    """
    Return the messages with a trigger at the end of the last one of these roles before the last answer of the
    assistant; None if there is no such message.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    # In a prompt the answer is not there: nobody of these roles speaks after the last one then.
    end = answers[-1] if answers and messages[-1]["role"] == "assistant" else len(messages)
    place = max((number for number in range(end) if messages[number]["role"] in roles), default=None)
    if place is None:
        return None
    said = messages[place]["content"].rstrip()
    changed = messages[place] | {"content": f"{said} {text}" if said else text}
    return [*messages[:place], changed, *messages[place + 1 :]]
