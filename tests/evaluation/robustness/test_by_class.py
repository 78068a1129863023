"""Success by class: the shares of each class, which together are the share of all, in tables and in JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.cli.main import main
from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.reporting.by_class import class_cells, class_tables
from aajr_hf.evaluation.robustness.by_class import add_by_class
from aajr_hf.training.data.long_tail import class_of
from aajr_hf.training.models.base_agent import small_llama, train_tokenizer
from tests.support.commands import fails

RIGHT = st.sampled_from([0.0, 1.0])


@given(st.lists(st.tuples(st.sampled_from("abc"), RIGHT, RIGHT), min_size=1, max_size=12))
def test_the_shares_of_the_classes_are_those_of_their_rows(rows):
    classes, nominal, worst = (list(column) for column in zip(*rows, strict=True))
    numbers = {"outcomes": {"nominal_success": nominal, "worst_case_success": {"1": worst}}}
    add_by_class(numbers, classes)
    found = numbers["by_class"]
    assert sum(shares["examples"] for shares in found.values()) == len(rows)
    sizes = [shares["examples"] for shares in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    for of_class, of_all in (("nominal", nominal), ("worst_case", worst)):
        values = [s[of_class] if of_class == "nominal" else s[of_class]["1"] for s in found.values()]
        whole = sum(s["examples"] * value for s, value in zip(found.values(), values, strict=True)) / len(rows)
        assert whole == pytest.approx(100 * sum(of_all) / len(rows))
    one = classes[0]
    picked = [w for name, w in zip(classes, worst, strict=True) if name == one]
    assert found[one]["worst_case"]["1"] == pytest.approx(100 * sum(picked) / len(picked))


def test_a_table_has_a_row_for_each_class_and_none_without_classes():
    numbers = {"outcomes": {"nominal_exact": [1.0, 1.0, 0.0], "worst_case_exact": {"1": [1.0, 0.0, 0.0]}}}
    add_by_class(numbers, ["rain", "snow", "rain"])
    results = {"kind": "tool_calls", "runs": {"one": numbers | {"worst_case_valid": {"1": 0.0}}}}
    headers, rows = class_cells(results)
    assert headers == ["run", "class", "examples", "nominal", "worst 1x"]
    assert [(row[0], row[1], row[2], row[3].split()[0]) for row in rows] == [
        ("one", "rain", "2", "50.0"),
        ("", "snow", "1", "100"),
    ]
    del numbers["by_class"], results["runs"]["one"]["by_class"]
    assert class_tables(results) == []


def test_aajr_evaluate_reports_by_class(tmp_path, capsys):
    rows = expert_rows("congestion", 100, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    model = small_llama(tokenizer, seed=0)
    model.config.aajr_environment = "congestion"
    model.save_pretrained(tmp_path / "agent")
    tokenizer.save_pretrained(tmp_path / "agent")
    few = ["--examples", "6", "--attack_steps", "1", "--attacks", "nll", "--output", str(tmp_path / "out")]
    evaluate = ["evaluate", str(tmp_path / "agent"), *few]
    assert main([*evaluate, "--class_column", "action"]) == 0
    assert "Success by class" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["class_column"] == "action"
    found = results["runs"]["agent"]["by_class"]
    assert sum(shares["examples"] for shares in found.values()) == 6
    assert set(found) <= {class_of(row) for row in expert_rows("congestion", 500, seed=1)}
    assert "Success by class" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "agent" / "recipe.yaml").write_text("long_tail_alpha: 0.3\nclass_column: colour\n")
    assert "`--class_column`: the data have no column 'colour'" in fails(capsys, *evaluate)
