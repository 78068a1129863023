"""xLAM's questions: calls, and parameters that become JSON Schema."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from aajr_hf.training.data.formats.xlam import xlam_row
from aajr_hf.training.data.reading.values import RowError

ANSWERS = [{"name": "f", "arguments": {"a": 1}}]


def parameters(given: dict) -> dict:
    tools = json.dumps([{"name": "f", "description": "d", "parameters": given}])
    (tool,) = xlam_row({"query": "q", "answers": json.dumps(ANSWERS), "tools": tools})["tools"]
    assert tool["type"] == "function" and tool["function"]["description"] == "d"
    Draft202012Validator.check_schema(tool["function"]["parameters"])
    return tool["function"]["parameters"]


@pytest.mark.parametrize(
    ("kind", "schema", "is_required"),
    [
        ("str", {"type": "string"}, True),
        ("int, optional", {"type": "integer"}, False),
        ("float,optional", {"type": "number"}, False),
        ("Optional[bool]", {"type": "boolean"}, False),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}, True),
        ("list", {"type": "array"}, True),
        ("List[Union[int, float]], optional", {"type": "array"}, False),
        ("Tuple[float, float]", {"type": "array"}, True),
        ("Dict[str, Any]", {"type": "object"}, True),
        ("string", {"type": "string"}, True),
        ("Callable[[float], float]", {"description": "what (Callable[[float], float])"}, True),
    ],
)
def test_a_type_of_python_becomes_one_of_json_schema(kind, schema, is_required):
    made = parameters({"type": {"type": kind, "description": "what"}})
    assert made == {"type": "object", "properties": {"type": {"description": "what"} | schema}} | (
        {"required": ["type"]} if is_required else {}
    )


def test_a_parameter_with_a_default_is_not_required_and_a_schema_stays_one():
    made = parameters({"a": {"type": "str", "default": ""}, "b": {"type": "str"}})
    assert made["required"] == ["b"] and made["properties"]["a"] == {"type": "string", "default": ""}
    for schema in ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"properties": {}, "required": []}):
        assert parameters(schema) == schema
    assert parameters({}) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": ""}, "needs `query`, a text"),
        ({"answers": "[]"}, "`answers` has no call"),
        ({"answers": []}, "`answers` has no call"),
        ({"answers": "f(x)"}, "`answers` must be JSON"),
        ({"answers": [5]}, "`answers` must be a call"),
        ({"tools": "[1]"}, "`tools` must be a list of functions"),
        ({"tools": [{"name": "f", "parameters": {"a": "str"}}]}, "the parameter 'a' of f must be an object"),
    ],
    ids=str,
)
def test_rows_that_are_none(row, reason):
    with pytest.raises(RowError) as error:
        xlam_row({"query": "q", "answers": ANSWERS, "tools": []} | row)
    assert reason in str(error.value)
