"""Rows in files."""

from __future__ import annotations

import csv
import json

from datasets import Dataset

from aajr_hf.training.data.sources import DataArguments, load_data

QUESTION = {
    "id": "one",
    "question": [[{"role": "user", "content": "Where is Kyoto?"}]],
    "function": [
        {
            "name": "place.find",
            "description": "Find a place.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "name": {"type": "string"},
                    "size": {"type": "float", "default": 0.95},
                    "corners": {"type": "tuple", "items": {"type": "float"}},
                    "filter": {"type": "dict", "properties": {"type": {"type": "any"}, "near": {"type": "string"}}},
                    "tags": {"type": "array", "items": {"type": "dict"}},
                },
                "required": ["name"],
            },
        }
    ],
}


ANSWER = {
    "place.find": {
        "name": ["Kyoto", "Kyōto"],
        "size": ["", 0.95],
        "corners": [[1.5, 2]],
        "filter": [{"type": ["city"], "near": ["", "Osaka"]}],
        "tags": [[{"key": ["a"], "value": ["", 1]}]],
    }
}


def lines(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


TEXTS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(6)]


def read(name, split_name="train", text_field="text", **arguments):
    data = load_data(DataArguments(dataset_name=str(name), **arguments), text_field)
    return data.read(split_name, "dataset_train_split")


def write(file, rows) -> None:
    if file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=2))
    elif file.suffix == ".jsonl":
        file.write_text(lines(*rows))
    elif file.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(file)
    else:
        with file.open("w", newline="") as target:
            writer = csv.DictWriter(target, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
