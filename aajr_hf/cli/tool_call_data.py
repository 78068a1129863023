"""The rows on which tool calls are evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import UserError


def tool_call_rows(name: str, format: str | None, split: str | None) -> list[dict[str, Any]]:
    """
    Rows with `prompt`, `completion`, `tools` and, where known, `accepted`, from a file of JSON lines.

    Args:
        name: The file.
        format: None for rows that are in this form already.
        split: None for `test`, or the only one; a file holds one, whatever it is called.

    Raises:
        UserError: for what cannot be read; names the field.
    """
    if format is not None or not name.endswith(".jsonl"):
        raise UserError(
            f"`--dataset_name`: {name} cannot be read: give a file of JSON lines, without `--dataset_format`."
        )
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`--dataset_name`: {error}.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"`--dataset_name`: line {number} of {name} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"`--dataset_name`: line {number} of {name} is no object.")
        rows.append(row)
    return rows
