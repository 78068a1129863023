"""The types of results: what does not match them is found, and which kind results are of that do not say so."""

from __future__ import annotations

import copy
import json
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from aajr_hf.training.sharing.reading import read_results
from tests.support.results import as_results, make_run
from tests.support.typed import mismatches


class Inner(TypedDict):
    share: float
    count: NotRequired[int]


class Outer(Inner):
    kind: Literal["outer"]
    runs: dict[str, Inner]
    lists: list[list[float | None]]
    passed: bool
    anything: dict[str, Any] | None


RIGHT = {
    "kind": "outer",
    "share": 1,
    "runs": {"a": {"share": 0.5}, "b": {"share": 1.0, "count": 2}},
    "lists": [[1.0, None], []],
    "passed": True,
    "anything": {"x": [object]},
}


@pytest.mark.parametrize("changes", [{}, {"anything": None}, {"count": 3}, {"lists": []}, {"runs": {}}])
def test_what_is_of_a_type_matches(changes):
    assert mismatches(RIGHT | changes, Outer) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "other"}, "results.kind: 'other' is none of ('outer',)"),
        ({"share": True}, "results.share: True is no <class 'float'>"),
        ({"count": 1.5}, "results.count: 1.5 is no <class 'int'>"),
        ({"count": None}, "results.count: None is no <class 'int'>"),
        ({"runs": {"a": {"share": 1.0, "more": 2}}}, "results.runs.a.more: no field of Inner"),
        ({"runs": {"a": {}}}, "results.runs.a.share: absent"),
        ({"runs": [1]}, "results.runs: [1] is no dict[str, tests.training.sharing.test_results.Inner]"),
        ({"runs": {"a": 3}}, "results.runs.a: 3 is no Inner"),
        ({"lists": [[1.0], ["x"]]}, "results.lists[1][0]: 'x' is no <class 'float'>"),
        ({"passed": 1}, "results.passed: 1 is no <class 'bool'>"),
        ({"anything": [3]}, "results.anything: [3] is no dict[str, typing.Any]"),
    ],
)
def test_what_is_not_of_a_type_is_named(changes, problem):
    assert problem in mismatches(RIGHT | changes, Outer)
    for name in RIGHT:
        assert mismatches({n: v for n, v in RIGHT.items() if n != name}, Outer) == [f"results.{name}: absent"]


@pytest.fixture
def read(tmp_path):
    """`read(results)`: what is read of a file with these."""

    def run(results):
        (tmp_path / "results.json").write_text(json.dumps(results))
        return read_results(tmp_path / "results.json")

    return run


def test_results_that_do_not_say_their_kind_are_told_by_their_fields(read):
    results = as_results({"a": make_run(90.0, 80.0, (70.0, 60.0, 50.0))})
    assert read(results) == results
    unsaid = copy.deepcopy(results)
    del unsaid["kind"]
    assert read(unsaid) == results
    assert read(unsaid | {"configurations": []})["kind"] == "comparison"
    unsaid["runs"]["a"]["nominal_valid"] = 90.0
    assert read(unsaid)["kind"] == "tool_calls"
    # What an older version wrote is left to whoever says so.
    del unsaid["version"]
    assert read(unsaid) == unsaid


@pytest.mark.parametrize(
    "results", [[], 3, {"version": 2}, {"version": 2, "runs": 3}, {"version": 2, "runs": {"a": 3}}]
)
def test_what_is_no_results_is_refused(results, read):
    with pytest.raises(ValueError, match="These are not results of `aajr evaluate`"):
        read(results)
    with pytest.raises(
        ValueError, match="of kind 'weather', but this release reads only robustness, tool_calls, compar"
    ):
        read({"version": 2, "kind": "weather", "runs": {}})
