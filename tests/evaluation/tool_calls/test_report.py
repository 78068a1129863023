"""Tables, sentences, files and the card's lines of tool calls."""

from __future__ import annotations

import copy
import io
import json
import math

import pytest
from PIL import Image
from rich.console import Console

from aajr_hf.evaluation.reporting.statistics import with_intervals
from aajr_hf.evaluation.tool_calls.judge import FAILURES
from aajr_hf.evaluation.tool_calls.report import tool_call_sentences, tool_call_tables, write_tool_call_report
from aajr_hf.training.sharing.tool_call_card import tool_call_results, tool_call_section
from tests.support.results import MULTIPLES, as_results, greedy_outcomes, trust


def run(valid, exact, **more):
    def by_multiple(values):
        return dict(zip(MULTIPLES, values, strict=True))

    numbers = {
        "reference_valid": 100.0,
        "reference_exact": 100.0,
        "nominal_nll": 0.0123,
        "worst_case_nll": {m: 2 * float(m) for m in MULTIPLES},
        "failures": {m: dict.fromkeys(FAILURES, 0) for m in ("nominal", *MULTIPLES)},
        "attacks": {
            "nll": {
                "attacked": dict.fromkeys(MULTIPLES, 180),
                "broken": dict.fromkeys(MULTIPLES, 30),
                "exact": by_multiple(exact[1:]),
            }
        },
        "trust": trust(),
        "outcomes": {},
        "embedding_norm": 0.3,
        "examples": 200,
        "train_seconds": None,
    }
    for kind, shares in (("valid", valid), ("exact", exact)):
        outcomes = [greedy_outcomes(share, 200) for share in shares]
        for where, values in ((numbers, shares), (numbers["outcomes"], outcomes)):
            where |= {f"nominal_{kind}": values[0], f"worst_case_{kind}": by_multiple(values[1:])}
    return with_intervals(numbers | more)


@pytest.fixture
def results():
    base = run((98.0, 80.0, 60.0, 31.5), (90.0, 70.0, 40.0, 12.5))
    base["failures"]["1"] |= {"unparsable": 120, "unknown_tool": 17}
    runs = {"base": base, "aajr [x]": run((98.0, 98.0, 97.0, 98.0), (85.0, 85.0, 80.0, 70.0))}
    settings = {
        "dataset_name": "/somewhere/data/bfcl",
        "examples": 200,
        "attack_steps": 20,
        "attack_restarts": 3,
        "perturbed_tokens": "prompt",
    }
    return as_results(runs, kind="tool_calls", train_epsilon=0.25, settings=settings)


def printed(results) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    for table in tool_call_tables(results):
        console.print(table)
    return console.file.getvalue().splitlines()


def test_the_table_shows_valid_and_exact_calls_and_why_some_are_not(results):
    lines = printed(results)
    (base,) = [line.split() for line in lines if line.startswith("base") and "[" in line]
    percents = ["98.0", "[95-99]", "80.0", "[74-85]", "60.0", "[53-67]", "31.5", "[25-38]"]
    assert base == ["base", "valid", *percents, "0.0123", "2.00"]
    exact = next(line.split() for line in lines if line.strip().startswith("exact"))
    assert exact == ["exact", "90.0", "[85-93]", "70.0", "[63-76]", "40.0", "[33-47]", "12.5", "[9-18]"]
    assert any("Threat model: l2 ball over the whole prompt" in line for line in lines)
    (attacks,) = [line.split() for line in lines if line.startswith("base") and "/" in line]
    assert attacks == ["base", "nll", "30/180", "70.0", "30/180", "40.0", "30/180", "12.5"]
    assert any(line.startswith("aajr [x]") for line in lines) and max(map(len, lines)) <= 100
    (worst,) = [line.split() for line in lines if line.startswith("base") and "worst 1x" in line]
    assert worst == ["base", "worst", "1x", "0", "0", "120", "17", "0"]


def test_the_summary_says_how_far_calls_fall(results):
    trusted, first, second, best = tool_call_sentences(results)
    assert trusted == "The success under attack can be trusted: every run passes all checks of the attack."
    at = "at 1x the training radius (0.25)"
    assert first == f"base: {at}, valid calls fall from 98.0% to 31.5%, exact ones fall from 90.0% to 12.5%."
    assert second == f"aajr [x]: {at}, valid calls stay at 98.0%, exact ones fall from 85.0% to 70.0%."
    assert best == (
        f"Most robust {at}, with 70.0% exact calls: aajr [x]; 57.5 points ahead of base (95 %: 49.3 to 64.5; p < 0.001)."
    )


def test_the_summary_says_whom_not_to_trust(results):
    results["runs"]["base"]["trust"] = trust(passed=False)
    assert tool_call_sentences(results)[0].startswith("Do not trust the success under attack of base, which fails")


def test_results_of_the_old_attack_are_refused(results, tmp_path):
    del results["version"]
    with pytest.raises(ValueError, match="old attack.*evaluate the agents again"):
        write_tool_call_report(results, tmp_path)
    results["version"] = 2
    with pytest.raises(ValueError, match="of kind 'robustness', but 'tool_calls' is needed"):
        write_tool_call_report(results | {"kind": "robustness"}, tmp_path)
    results["runs"]["base"]["outcomes"]["worst_case_exact"]["1"].pop()
    with pytest.raises(ValueError, match="'base', field 'outcomes.worst_case_exact.1': expected 200 numbers"):
        write_tool_call_report(results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_summary_says_where_the_data_allows_less(results):
    del results["runs"]["aajr [x]"]
    results["runs"]["base"] |= {"reference_valid": 99.0, "reference_exact": 97.5}
    *_, ceiling = tool_call_sentences(results)
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
        "31.5 [25-38]",
        "Attacks, one after the other",
        "30/180",
        "3 of 1000",
        "Threat model: l2 ball",
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


def only_base(results):
    return results | {"runs": {"this agent": results["runs"]["base"]}}


def test_the_card_shows_them(results):
    section = tool_call_section(only_base(results))
    assert "| | nominal | worst case, 0.25x radius (0.0625) | worst case, 0.5x radius (0.125) |" in section
    assert "| valid tool calls | 98.0 [95-99] | 80.0 [74-85] | 60.0 [53-67] | 31.5 [25-38] |" in section
    assert "| exact tool calls | 90.0 [85-93] | 70.0 [63-76] | 40.0 [33-47] | 12.5 [9-18] |" in section
    assert "these attacks breaks: nll." in section and "can be trusted: this agent passes all checks" in section
    assert "Threat model: l2 ball over the whole prompt" in section
    assert "200 rows of bfcl" in section and "somewhere" not in section
    assert "Invalid answers at 1x: unparsable 120, unknown tool 17." in section
    found = {result.metric_name: result.metric_value for result in tool_call_results(only_base(results))}
    assert len(found) == 8 and found["valid tool calls (nominal) %"] == 98.0
    assert found["exact tool calls (worst case, 1x training radius) %"] == 12.5


def test_the_dataset_of_the_hub_keeps_its_name(results):
    results["settings"]["dataset_name"] = "someone/tools"
    assert {result.dataset_type for result in tool_call_results(only_base(results))} == {"someone/tools"}
