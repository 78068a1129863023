"""The files of the Berkeley Function Calling Leaderboard, where they are at hand."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.formats.bfcl import bfcl_rows
from aajr_hf.training.data.row_datasets import dataset_of
from tests.support.shared_data import bfcl

PARTS = {"simple_python": 400, "multiple": 200, "parallel": 200, "live_simple": 258}


def accepts(values: list, value: object) -> bool:
    """Whether BFCL accepts a value: one of the list, of which those in objects are lists again."""
    if isinstance(value, dict):
        return any(
            isinstance(one, dict)
            and all(name in one and accepts(one[name], part) for name, part in value.items())
            and all(name in value or "" in parts for name, parts in one.items())
            for one in values
        )
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return any(
            len(one) == len(value) and all(accepts([a], b) for a, b in zip(one, value, strict=True)) for one in values
        )
    return value in values or value == [] == values


def types(schema: dict):
    """Every type in a schema of BFCL's or of JSON Schema."""
    yield schema.get("type")
    for part in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        yield from types(part)


@pytest.mark.parametrize("part", PARTS)
def test_the_real_files_are_read_without_loss(part):
    file = bfcl() / f"BFCL_v4_{part}.json"
    questions = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    answers = map(json.loads, file.with_name(f"{file.stem}.answers.json").read_text().splitlines())
    answers = {row["id"]: row["ground_truth"] for row in answers}
    dataset, count = dataset_of(lambda: bfcl_rows(file))
    assert (count.valid, count.invalid) == (PARTS[part], 0) and len(dataset) == PARTS[part]
    for (_, read), kept in zip(bfcl_rows(file), dataset, strict=True):
        assert json.dumps(canonical_row(read)) == json.dumps(kept)  # 0.95 as 0.95, and no argument of another row
        question, truth = questions[kept["id"]], answers[kept["id"]]
        assert kept["prompt"] == question["question"][0]
        calls = [call["function"] for call in kept["completion"][0]["tool_calls"]]
        assert len(calls) == len(truth)
        schemas = {f["name"]: f["parameters"] for f in question["function"]}
        for call, accepted in zip(calls, truth, strict=True):
            (values,) = accepted.values()
            assert set(accepted) == {call["name"]}
            assert all(accepts(values[name], value) for name, value in call["arguments"].items())
            assert all("" in values[name] for name in values.keys() - call["arguments"].keys())
            assert set(schemas[call["name"]].get("required", [])) <= call["arguments"].keys()
        for tool in kept["tools"]:
            before, after = schemas[tool["function"]["name"]], tool["function"]["parameters"]
            renamed = {"dict": "object", "float": "number", "tuple": "array", "any": None}
            assert [renamed.get(name, name) for name in types(before)] == list(types(after))


def test_chosen_calls_fit_their_schemas_where_an_accepted_one_does():
    invalid = set()
    for part in PARTS:
        for _, row in bfcl_rows(bfcl() / f"BFCL_v4_{part}.json"):
            schemas = {t["function"]["name"]: t["function"]["parameters"] for t in row["tools"]}
            for call in row["completion"][0]["tool_calls"]:
                schema, arguments = schemas[call["function"]["name"]], call["function"]["arguments"]
                if not Draft202012Validator(schema).is_valid(arguments):
                    invalid.add(row["id"])
    # A value outside its enumeration, and two required lists that are empty: in the data itself.
    assert invalid <= {"live_simple_71-35-0", "live_simple_106-63-0", "live_simple_112-68-0"}
