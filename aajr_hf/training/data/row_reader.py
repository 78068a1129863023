"""Reads the rows of a dataset for a trainer: in the canonical form, and proved to be what the chat template writes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, IterableDataset, Json, List, Value
from trl import extract_prompt

from .canonical import CONVERSATIONS, READ_FIELDS, canonical_row, is_conversation
from .chat_spans import spans_mask
from .exact_json import use_exact_json
from .nulls import has_structs, without_nulls
from .proof import left_out, proved
from .row_changes import NOTHING_TO_MASK, RowChanges
from .row_datasets import RowCount, nothing_reads
from .schema import check_messages, check_preference, check_row
from .streams import StreamCount
from .template import Messages, Template
from .tool_schema import RowError, offered_tools
from .turns import not_actions

logger = logging.getLogger(__name__)

_REPORT = "aajr_report"
# Columns that become other columns in the canonical form.
_REMOVED = ("conversations", "functions", "system")


@dataclass(frozen=True)
class RowReader:
    """
    Function from a row of a dataset and its number to the columns that TRL renders.

    They are messages in the canonical form, as the template reads them ([`Template.adapted`]); `tools`; `action_mask`,
    0 for each token that is no action although TRL trains on it ([`not_actions`]), or None if there is no such token;
    and a report as JSON text.

    Attributes:
        template: The chat template.
        columns: The columns that hold messages after [`canonical_row`], in the order of [`CONVERSATIONS`].
        invented_nulls: Whether the dataset's objects have the fields of all rows, filled with nulls.
        only_completions: Whether only completions are trained on.
        only_prompts: Whether completions are sampled, and what else a row holds is for the rewards.
        options: Arguments of the template for all rows.
        changes: What is done to the rows first.
    """

    template: Template
    columns: tuple[str, ...]
    invented_nulls: bool = False
    only_completions: bool = False
    only_prompts: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    changes: RowChanges = RowChanges()

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        given = {name: value for name, value in row.items() if value is not None}
        kept = {name: None for name in ("tools", "chat_template_kwargs") if name in row}
        kept |= {name: [] for name in self.columns} | {"action_mask": None}
        unread: set[str] = set()
        try:
            read = canonical_row(without_nulls(given) if self.invented_nulls else given, unread)
            if "chosen" in read and "prompt" not in read:
                read |= extract_prompt(read)
            self._check(read)
            read, done = self.changes(read) if self.changes else (read, [])
            report, kept["action_mask"] = self._prove(read)
            report["done"] = done
        except RowError as error:
            return kept | {_REPORT: json.dumps({"error": str(error)})}
        found = {name: list(map(_without_weight, self.template.adapted(read[name]))) for name in self.columns}
        found |= {name: read.get(name) for name in ("tools",) if name in row or name in read}
        if "chat_template_kwargs" in row:
            found["chat_template_kwargs"] = read.get("chat_template_kwargs") or {}  # TRL unpacks it
        report["unread"] = sorted(unread | self._unread(read))
        report["changed"] = any(row.get(name) != value for name, value in found.items())
        return kept | found | {_REPORT: json.dumps(report)}

    def _check(self, row: dict[str, Any]) -> None:
        offered = offered_tools(row.get("tools"))
        for name in self.columns:
            check_messages(name, row.get(name), offered)
        if "chosen" in self.columns:
            check_preference(row)
        elif not self.only_prompts:
            check_row({name: row[name] for name in CONVERSATIONS if name in row})

    def _prove(self, row: dict[str, Any]) -> tuple[dict[str, Any], list[int] | None]:
        """Return a report on the row, and its mask of actions or None."""
        report = {"left_out": False}
        options = dict(self.options) | (row.get("chat_template_kwargs") or {})
        tools, spans = row.get("tools"), []
        for columns in self._conversations():
            messages: Messages = [message for name in columns for message in row[name]]
            places = [f"`{name}`[{number}]" for name in columns for number in range(len(row[name]))]
            rendering = proved(self.template, messages, tools, places, **options)
            report["left_out"] |= left_out(rendering)
            if columns[-1] in ("messages", "completion"):
                completion = len(row["prompt"]) if columns[-1] == "completion" and self.only_completions else None
                spans = not_actions(self.template, rendering, messages, tools, completion, **options)
        if not spans:
            return report, None
        return report, [1 - inside for inside in spans_mask(self.template.tokenizer, rendering.text, spans)]

    def _unread(self, row: dict[str, Any]) -> set[str]:
        """The fields of messages that the template does not read."""
        fields = {name for column in self.columns for message in row[column] for name in message} - READ_FIELDS
        return {f"`{name}` of messages" for name in fields if not self.template.reads(name)}

    def _conversations(self) -> list[list[str]]:
        """The columns of each conversation that is rendered."""
        if "chosen" in self.columns:
            return [["prompt", "chosen"], ["prompt", "rejected"]]
        return [list(self.columns)]


def read_dataset(
    dataset: Dataset | IterableDataset,
    template: Template,
    *,
    name: str,
    skip_invalid_rows: bool = False,
    num_proc: int | None = None,
    first: int = 0,
    stream: StreamCount | None = None,
    **settings,
) -> tuple[Dataset | IterableDataset, RowCount]:
    """
    Read the rows of a dataset of messages with a [`RowReader`]; a dataset of texts or tokens stays as it is. What is
    lost although rows are valid is reported in one warning for each kind: fields that nothing reads, and thoughts that
    the template leaves out of earlier turns.

    Args:
        name: How messages call the dataset.
        skip_invalid_rows: Whether invalid rows are left out, with a warning that counts them.
        first: Number of the first row, for messages.
        stream: Counts the rows of a streamed dataset while they are read, with a warning at the first of each kind.
        settings: Further attributes of the reader.

    Raises:
        ValueError: if there are invalid rows that may not be left out, or no other rows; the message counts them, and
            names the first ones.
    """
    example = next(iter(dataset), {})
    columns = _conversation_columns(example, settings.get("only_prompts", False))
    if not columns or "input_ids" in example:
        if settings.get("changes"):
            raise ValueError(
                "`triggers` and `mask_share` need messages, but the data are texts or tokens: give messages, or leave out "
                "these fields."
            )
        return dataset, RowCount()
    if template.source is None:
        raise ValueError("The data are messages, but the tokenizer has no chat template: set `chat_template_path`.")
    use_exact_json()
    features = dataset.features
    nulls = features is not None and has_structs(features)
    reader = RowReader(template, columns, nulls, **settings)
    removed = [column for column in _REMOVED if column in example]
    if isinstance(dataset, IterableDataset):
        return _streamed(dataset, reader, removed, skip_invalid_rows, stream or StreamCount(name)), RowCount()
    made = {
        column: List(Json())
        for column in (*columns, "tools")
        if column != "tools" or {"tools", "functions"} & example.keys()
    }
    made |= {"chat_template_kwargs": Json()} if "chat_template_kwargs" in example else {}
    made |= {"action_mask": List(Value("int8")), _REPORT: Value("string")}
    kept = {column: feature for column, feature in features.items() if column not in removed}
    read = dataset.map(
        reader,
        with_indices=True,
        remove_columns=removed,
        features=Features(kept | made),
        num_proc=num_proc,
        desc=f"Reading {name} dataset",
    )
    return _reported(dataset, read, name, skip_invalid_rows, first)


def _reported(
    given: Dataset, read: Dataset, name: str, skip_invalid_rows: bool, first: int
) -> tuple[Dataset, RowCount]:
    """Act on the reports of the rows."""
    count, valid, unread, left = RowCount(), [], {}, []
    done: dict[str, list[int]] = {}
    changed = False
    for number, text in enumerate(read[_REPORT]):
        report = json.loads(text)
        if "error" in report:
            count.add(f"row {first + number} of the {name} data", RowError(report["error"]))
            continue
        valid.append(number)
        changed |= report["changed"]
        unread |= {field: number for field in report["unread"] if field not in unread}
        left += [number] if report["left_out"] else []
        for what in report["done"]:
            done.setdefault(what, []).append(number)
    count.valid = len(valid)
    if count.invalid and not (skip_invalid_rows and valid):
        raise ValueError(f"{count}. Correct them, or set `skip_invalid_rows` to true to leave them out.")
    if count.invalid:
        logger.warning(f"Invalid rows are skipped. {count}.")
    for field, number in unread.items():
        logger.warning(nothing_reads(field, f"row {first + number} of the {name} data"))
    if left:
        logger.warning(
            f"The chat template leaves reasoning out of earlier turns of {len(left)} of {len(valid)} rows (first of "
            f"row {first + left[0]} of the {name} data): it is not trained on."
        )
    _announce(done, len(valid), name, first)
    masked = any(mask is not None for mask in read["action_mask"])
    if not (changed or count.invalid or masked):
        return given, count
    read = read.remove_columns([_REPORT] if masked else [_REPORT, "action_mask"])
    return read.select(valid) if count.invalid else read, count


def _announce(done: dict[str, list[int]], rows: int, name: str, first: int) -> None:
    """Say how many rows were changed, and how many could not be."""
    for what, numbers in done.items():
        place = f"the first is row {first + numbers[0]}"
        if what == NOTHING_TO_MASK:
            logger.warning(
                f"{len(numbers)} of {rows} rows of the {name} data were drawn to be masked, but have no word of which it is "
                f"known that the call does not use it ({place}): they stay as they are."
            )
        else:
            logger.info(f"{len(numbers)} of {rows} rows of the {name} data are {what} ({place}).")


def _streamed(
    dataset: IterableDataset, reader: RowReader, removed: list[str], skip_invalid_rows: bool, count: StreamCount
) -> IterableDataset:
    def read(row: dict[str, Any], number: int) -> dict[str, Any]:
        found = reader(row, number)
        report, place = json.loads(found[_REPORT]), count.place("row", number)
        error = report.get("error")
        if error and not skip_invalid_rows:
            raise ValueError(
                f"A row is invalid: {place}: {error}. Correct it, or set `skip_invalid_rows` to true to leave it out."
            )
        count.add(rows=1, invalid=bool(error), left_out=report.get("left_out", False))
        if error:
            count.tell("invalid", f"Invalid rows are skipped. The first is {place}: {error}.")
        for field in report.get("unread", ()):
            count.tell(field, nothing_reads(field, place))
        if report.get("left_out"):
            count.tell(
                "left_out",
                f"The chat template leaves reasoning out of earlier turns (first of {place}): it is not trained on.",
            )
        return found

    dataset = dataset.map(read, with_indices=True, remove_columns=removed)
    dataset = dataset.filter(lambda row: "error" not in json.loads(row[_REPORT]))
    return dataset.remove_columns(_REPORT)


def _conversation_columns(row: dict[str, Any], only_prompts: bool) -> tuple[str, ...]:
    """The columns that hold messages in the canonical form, judged by the first row."""
    if only_prompts:
        return ("prompt",) if _holds_messages("prompt", row.get("prompt")) else ()
    if row.get("messages") is None and row.get("conversations"):
        row = row | {"messages": row["conversations"]}
    found = [name for name in CONVERSATIONS if _holds_messages(name, row.get(name))]
    if "chosen" in found and row.get("prompt") is None:
        found.append("prompt")
    if "completion" in found:
        found.remove("messages") if "messages" in found else None
    elif "prompt" in found and "chosen" not in found and "messages" in found:
        found.remove("prompt")
    return tuple(name for name in CONVERSATIONS if name in found)


def _holds_messages(name: str, value: object) -> bool:
    is_text = isinstance(value, str) and (name == "messages" or value.lstrip().startswith("[{") and '"role"' in value)
    return is_text or is_conversation(value)


def _without_weight(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "weight"}
