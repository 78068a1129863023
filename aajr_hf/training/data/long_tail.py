"""Classes of examples, and a radius for each class that is larger the rarer it is (RobustLT, arXiv 2605.13395)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from .canonical import canonical_row, is_conversation

logger = logging.getLogger(__name__)

# The value of `class_column` that takes the class from the answer.
FROM_ANSWER = "action"
# Column of the class while rows are prepared, and of the factor of the radius that replaces it.
_CLASS, FACTOR = "example_class", "radius_factor"


def class_of(row: dict[str, Any], column: str = FROM_ANSWER) -> str:
    """
    The class of a row, as a text: the value of its `column`. If there is no such column, `action` gives the first tool that the
    answer calls, or the first word in which the row's `actions` differ with the word before it, or the answer's first word.

    Raises:
        ValueError: if the row has no such column; names the field.
    """
    if column in row:
        return str(row[column])
    if column != FROM_ANSWER:
        raise ValueError(
            f"`class_column`: the data have no column {column!r}, but {', '.join(row)}: name one of them, or {FROM_ANSWER}."
        )
    row = canonical_row(row)
    said = row.get("completion") or row.get("messages") or ""
    if is_conversation(said):
        answers = [message for message in said if message["role"] == "assistant"]
        called = [call["function"]["name"] for answer in answers for call in answer.get("tool_calls", ())]
        if called:
            return called[0]
        said = answers[-1]["content"] if answers else ""
    words = said.split()
    others = [action.split() for action in row.get("actions") or ()]
    differing = (i for i, word in enumerate(words) if any(other[i : i + 1] != [word] for other in others))
    place = next(differing, 0)
    return " ".join(words[max(place - 1, 0) : place + 1])


def radius_factors(counts: dict[str, int], alpha: float) -> dict[str, float]:
    """
    Factor of epsilon for each class, `1 - alpha + alpha w_y / sum_y' p_y' w_y'` with `w_y = sqrt(log(n_max / n_y))`, from the
    number of examples n_y of each class. Its mean over the examples is 1. If all classes are equally frequent, all w are
    0, and all factors are 1.
    """
    largest, total = max(counts.values()), sum(counts.values())
    weights = {name: math.sqrt(math.log(largest / count)) for name, count in counts.items()}
    mean = sum(counts[name] * weight for name, weight in weights.items()) / total
    if mean == 0:
        return dict.fromkeys(counts, 1.0)
    return {name: 1 - alpha + alpha * weight / mean for name, weight in weights.items()}


def with_classes(dataset: Dataset | IterableDataset, column: str) -> Dataset:
    """
    Add the class of each row as a column, before the rows become tokens.

    Raises:
        ValueError: if the data are streamed, or have no column for the class.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "`long_tail_alpha` counts the rows of each class, but streamed data are not counted: set it to 0."
        )
    return dataset.map(lambda row: {_CLASS: class_of(row, column)}, desc="Finding classes")


def with_radius_factors(dataset: Dataset, alpha: float) -> Dataset:
    """Replace the classes of the prepared rows by the factors of their radii."""
    classes = dataset[:][_CLASS]
    counts = Counter(classes)
    factors = radius_factors(counts, alpha)
    common = counts.most_common()
    shown = [f"{name!r} ({count} rows): {factors[name]:.2f}" for name, count in common[:3] + common[3:][-3:]]
    logger.info(f"`long_tail_alpha`: {len(counts)} classes; factors of epsilon: {', '.join(shown)}.")
    return dataset.remove_columns(_CLASS).add_column(
        FACTOR, np.array([factors[name] for name in classes], dtype=np.float32)
    )
