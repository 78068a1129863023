"""Tables, sentences, files and the card's lines of tool calls."""

from __future__ import annotations

import copy
import io
import json
import math

import pytest
from PIL import Image
from rich.console import Console

from aajr_hf.evaluation.tool_call_report import tool_call_sentences, tool_call_tables, write_tool_call_report
from aajr_hf.evaluation.tool_calls import FAILURES
from aajr_hf.training.tool_call_card import is_of_tool_calls, tool_call_results, tool_call_section


def run(valid, exact, **more):
    multiples = ("0.5", "1", "2")
    return {
        "reference_valid": 100.0,
        "reference_exact": 100.0,
        "nominal_valid": valid[0],
        "nominal_exact": exact[0],
        "nominal_nll": 0.0123,
        "worst_case_valid": dict(zip(multiples, valid[1:], strict=True)),
        "worst_case_exact": dict(zip(multiples, exact[1:], strict=True)),
        "worst_case_nll": {m: 2 * float(m) for m in multiples},
        "failures": {m: dict.fromkeys(FAILURES, 0) for m in ("nominal", *multiples)},
        "embedding_norm": 0.3,
        "examples": 200,
        "train_seconds": None,
    } | more


@pytest.fixture
def results():
    base = run((98.0, 80.0, 60.0, 31.5), (90.0, 70.0, 40.0, 12.5))
    base["failures"]["2"] |= {"unparsable": 120, "unknown_tool": 17}
    return {
        "runs": {"base": base, "aajr [x]": run((98.0, 98.0, 97.0, 98.0), (85.0, 85.0, 80.0, 70.0))},
        "train_epsilon": 0.25,
        "settings": {
            "dataset_name": "/somewhere/data/bfcl",
            "examples": 200,
            "attack_steps": 20,
            "attack_restarts": 3,
            "perturbed_tokens": "prompt",
        },
    }


def printed(results) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    for table in tool_call_tables(results):
        console.print(table)
    return console.file.getvalue().splitlines()


def test_the_table_shows_valid_and_exact_calls_and_why_some_are_not(results):
    lines = printed(results)
    (base,) = [line.split() for line in lines if line.startswith("base") and "(" in line]
    percents = ["98.0", "(90.0)", "80.0", "(70.0)", "60.0", "(40.0)", "31.5", "(12.5)"]
    assert base == ["base", *percents, "0.0123", "4.00"]
    assert any(line.startswith("aajr [x]") for line in lines) and max(map(len, lines)) <= 100
    (worst,) = [line.split() for line in lines if line.startswith("base") and "worst 2x" in line]
    assert worst == ["base", "worst", "2x", "0", "0", "120", "17", "0"]


def test_the_summary_says_how_far_calls_fall(results):
    first, second, best, chance = tool_call_sentences(results)
    at = "at 2x the training radius (0.5)"
    assert first == f"base: {at}, valid calls fall from 98.0% to 31.5%, exact ones fall from 90.0% to 12.5%."
    assert second == f"aajr [x]: {at}, valid calls stay at 98.0%, exact ones fall from 85.0% to 70.0%."
    assert best == f"Most robust {at}, with 70.0% exact calls: aajr [x]."
    assert "With 200 examples" in chance


def test_the_summary_says_where_the_data_allows_less(results):
    del results["runs"]["aajr [x]"]
    results["runs"]["base"] |= {"reference_valid": 99.0, "reference_exact": 97.5}
    _, ceiling = tool_call_sentences(results)
    assert "99.0% valid and 97.5% exact" in ceiling


def test_all_files_are_written(results, tmp_path):
    results["runs"]["<script>"] = results["runs"].pop("aajr [x]")
    write_tool_call_report(results, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == results
    with Image.open(tmp_path / "report" / "tool_calls.png") as plot:
        assert plot.width > 500
    page = (tmp_path / "report" / "report.html").read_text()
    for text in (
        tool_call_sentences(results)[0],
        "31.5 (12.5)",
        "120",
        "unknown tool: calls a tool that is not offered",
    ):
        assert text in page
    assert (
        "<script>" not in page and "&lt;script&gt;" in page and "http" not in page.split("<main>")[1].split("<pre>")[0]
    )


@pytest.mark.parametrize(("field", "multiple"), [("nominal_nll", None), ("worst_case_nll", "1")])
def test_a_number_that_is_not_finite_is_refused_by_name(results, field, multiple, tmp_path):
    broken = copy.deepcopy(results)
    if multiple is None:
        broken["runs"]["base"][field] = math.nan
    else:
        broken["runs"]["base"][field][multiple] = math.inf
    with pytest.raises(ValueError, match=f"run 'base', field '{field}"):
        write_tool_call_report(broken, tmp_path)
    assert not list(tmp_path.iterdir())


def numbers(results):
    return results["runs"]["base"] | {"settings": results["settings"], "train_epsilon": results["train_epsilon"]}


def test_the_card_shows_them(results):
    section = tool_call_section(numbers(results))
    assert "| | nominal | worst case, 0.5x radius (0.125) | worst case, 1x radius (0.25) |" in section
    assert "| valid tool calls | 98.0 | 80.0 | 60.0 | 31.5 |" in section
    assert "| exact tool calls | 90.0 | 70.0 | 40.0 | 12.5 |" in section
    assert "200 rows of bfcl" in section and "somewhere" not in section
    assert "Invalid answers at 2x: unparsable 120, unknown tool 17." in section
    found = {result.metric_name: result.metric_value for result in tool_call_results(numbers(results))}
    assert len(found) == 8 and found["valid tool calls (nominal) %"] == 98.0
    assert found["exact tool calls (worst case, 2x training radius) %"] == 12.5


def test_the_dataset_of_the_hub_keeps_its_name(results):
    results["settings"]["dataset_name"] = "someone/tools"
    assert {result.dataset_type for result in tool_call_results(numbers(results))} == {"someone/tools"}
    assert is_of_tool_calls(numbers(results)) and not is_of_tool_calls({"nominal_success": 1.0})
