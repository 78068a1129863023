"""The tables of the other attacks and of the checks, and what the page and the summary say of them."""

from __future__ import annotations

import math

import pytest

from aajr_hf.evaluation import report
from aajr_hf.evaluation.attack_report import attack_cells, attack_tables, sanity_sentences
from aajr_hf.evaluation.sanity import sanity_rules

from .test_report import page, piped


def by_multiple(values):
    return dict(zip(("0.5", "1", "2"), values, strict=True))


@pytest.fixture
def attacked(results):
    """Two of the runs with other attacks; the second one's token substitutions are stronger than PGA."""
    for name, pga_at_radius in (("adversarial", 1.0), ("aajr", 40.0)):
        run = results["runs"][name]
        random = {"success": (95.0, 90.0, 85.0), "sampled_success": (94.0, 89.0, 84.0), "cost": (0.3, 0.4, 0.5)}
        run["attacks"] = {
            "random": {field: by_multiple(values) for field, values in random.items()},
            "token": {"success": 10.0, "sampled_success": 11.0, "cost": 12.0, "radius": 1.75},
            "pga_at_token_radius": {
                "success": pga_at_radius,
                "sampled_success": 2.0,
                "cost": 50.0,
                "radius": 1.75,
            },
        }
        run["sanity"] = sanity_rules(run)
    return results


def test_a_row_for_each_run_and_attack(attacked):
    headers, rows = attack_cells(attacked)
    assert headers == ["run", "attack", "0.5x", "1x", "2x", "own radius", "radius"]
    assert rows[:4] == [
        ["adversarial", "PGA", "67.2 (62.2)", "62.0 (57.0)", "49.2 (44.2)", "-", "-"],
        ["adversarial", "random points", "95.0 (94.0)", "90.0 (89.0)", "85.0 (84.0)", "-", "-"],
        ["adversarial", "token substitutions", "-", "-", "-", "10.0 (11.0)", "1.75"],
        ["adversarial", "PGA, radii of these", "-", "-", "-", "1.0 (2.0)", "1.75"],
    ]
    assert [row[0] for row in rows] == ["adversarial"] * 4 + ["aajr"] * 4


def test_tables_and_sentence_say_what_failed(attacked):
    others, checks = (piped(table) for table in attack_tables(attacked))
    assert "random points" in others and "95.0 (94.0)" in others
    words = checks.split()
    assert words.count("failed") == 1 and words.count("passed") == 3
    (sentence,) = sanity_sentences(attacked)
    assert sentence.startswith(
        "Do not trust the success under attack of aajr: the attack fails the check that PGA leaves"
    )
    assert report.summary_sentences(attacked)[-1] == sentence


def test_the_page_shows_them(attacked, tmp_path):
    parsed = page(attacked, tmp_path / "report.html")
    assert parsed.open == []
    text = parsed.text
    others = text[text.index("Other attacks") : text.index("Checks of the attack")]
    checks = text[text.index("Checks of the attack") : text.index("Plots")]
    assert "PGA, radii of these" in others and "40.0 (2.0)" in others
    assert checks.count("passed") == 3 and "failed" in checks and "token substitutions 10.0 %" in checks
    assert "Do not trust" in text


def test_reports_without_other_attacks_are_as_before(results, tmp_path):
    assert attack_tables(results) == [] and sanity_sentences(results) == []
    text = page(results, tmp_path / "report.html").text
    assert "Other attacks" not in text and "Checks of the attack" not in text


def test_a_number_that_is_not_finite_is_named(attacked, tmp_path):
    attacked["runs"]["aajr"]["attacks"]["random"]["cost"]["2"] = math.nan
    with pytest.raises(ValueError, match=r"'aajr', field 'attacks.random.cost.2'"):
        report.write_json(attacked, tmp_path / "results.json")
    attacked["runs"]["aajr"]["attacks"]["random"]["cost"]["2"] = 1.0
    attacked["runs"]["aajr"]["attacks"]["token"]["radius"] = None
    with pytest.raises(ValueError, match=r"'aajr', field 'attacks.token.radius'"):
        report.write_json(attacked, tmp_path / "results.json")
