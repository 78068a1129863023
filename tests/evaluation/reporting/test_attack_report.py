"""The tables of the attacks and of the checks, and what the page and the summary say of them."""

from __future__ import annotations

import math

import pytest

from aajr_hf.evaluation.reporting import report
from aajr_hf.evaluation.reporting.attack_report import attack_cells, attack_tables, token_cells, trust_cells
from tests.support.pages import page, piped


@pytest.fixture
def attacked(results):
    """One run with a token attack and a failed check, and attacks that were also made alone."""
    run = results["runs"]["aajr"]
    token = {"success": 10.0, "sampled_success": 11.0, "cost": 12.0, "radius": 1.75}
    run["token_attack"] = token | {"pga": token | {"success": 40.0, "sampled_success": 2.0}}
    run["trust"][0] |= {"passed": False, "detail": "400 of 1000 examples"}
    run["attacks"]["margin"]["alone"] = {"0.25": 79.0, "0.5": 77.7, "1": 71.2}
    return results


def test_a_row_for_each_run_and_attack(results):
    headers, rows = attack_cells(results)
    radii = [(times, kind) for times in ("0.25x", "0.5x", "1x") for kind in ("broken", "left")]
    assert headers == [("run", ""), ("attack", ""), *radii]
    assert rows[-2:] == [
        ["aajr", "margin", "100/1000", "79.1", "100/1000", "75.7", "100/1000", "71.1"],
        ["aajr", "tempered nll", "10/500", "78.1", "10/500", "74.7", "10/500", "70.1"],
    ]
    assert [row[0] for row in rows] == [name for name in results["runs"] for _ in range(2)]


def test_alone_is_a_column_where_it_is_given(attacked):
    headers, rows = attack_cells(attacked)
    assert headers[-3:] == [("1x", "broken"), ("1x", "left"), ("1x", "alone")]
    assert [row[-1] for row in rows] == ["-"] * 6 + ["71.2", "-"] and rows[-2][4] == "79.0"


def test_an_attack_that_skipped_a_radius_shows_none_of_it(results):
    attack = results["runs"]["sft"]["attacks"]["margin"]
    for numbers in attack.values():
        del numbers["0.25"]
    assert attack_cells(results)[1][2][2:6] == ["-", "-", "100/1000", "41.1"]


def test_tables_show_attacks_tokens_and_what_failed(attacked):
    attacks, tokens, failed = (piped(table) for table in attack_tables(attacked))
    assert attacks.startswith("Attacks, one after the other") and max(map(len, attacks.splitlines())) <= 100
    rows = [line.split() for line in attacks.splitlines() if "/" in line]
    assert rows[0][:4] == ["base", "margin", "100/1000", "60.2"] and rows[1][:2] == ["tempered", "nll"]
    assert "10.0 [8-12] (sampled 11.0 [9-13])  40.0 [37-43] (sampled 2.0 [1-3])" in tokens and "1.75" in tokens
    assert "400 of 1000 examples" in failed and "more steps" not in failed


def test_without_a_token_attack_and_failures_there_are_no_tables_of_them(results):
    assert len(attack_tables(results)) == 1 and token_cells(results)[1] == []
    for run in results["runs"].values():
        for attack in run["attacks"].values():
            attack["broken"] = dict.fromkeys(attack["broken"], 0)
    assert attack_tables(results) == []
    for run in results["runs"].values():
        del run["attacks"]
    assert attack_tables(results) == []


@pytest.mark.slow
def test_the_page_shows_them(attacked, tmp_path):
    parsed = page(attacked, tmp_path / "report.html")
    assert parsed.open == []
    text = parsed.text
    attacks = text[text.index("Attacks, one after the other") : text.index("Token attack")]
    tokens = text[text.index("Token attack") : text.index("Checks of the attack")]
    checks = text[text.index("Checks of the attack") : text.index("Plots")]
    assert "tempered nll" in attacks and "100/1000" in attacks and "71.2" in attacks
    assert "after this attack alone, on all examples" in attacks and "40.0 [37-43] (sampled 2.0 [1-3])" in tokens
    assert checks.count("passed") == 7 == len(trust_cells(attacked)) - 1
    assert "failed" in checks and "400 of 1000 examples" in checks and "Do not trust" in text


@pytest.mark.slow
def test_the_page_without_them(results, tmp_path):
    for run in results["runs"].values():
        del run["attacks"], run["ray"]
    text = page(results, tmp_path / "report.html").text
    assert "Attacks, one after" not in text and "Token attack" not in text and "Checks of the attack" in text
    assert not (tmp_path / "ray.png").exists()


@pytest.mark.parametrize("path", ["attacks.margin.success.2", "token_attack.pga.radius", "ray.nll.3"])
def test_a_number_that_is_not_finite_is_named(attacked, tmp_path, path):
    place = attacked["runs"]["aajr"]
    *inner, last = (int(name) if name.isdigit() and "ray" in path else name for name in path.split("."))
    for name in inner:
        place = place[name]
    place[last] = math.nan
    with pytest.raises(ValueError, match=f"'aajr', field '{path}'"):
        report.write_json(attacked, tmp_path / "results.json")
