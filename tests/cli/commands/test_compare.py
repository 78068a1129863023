"""`aajr compare`: from folders of runs to a page, and what users get wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from aajr_hf.cli.main import main
from aajr_hf.training.sharing.model_card import weights_digest
from aajr_hf.training.sharing.results import ComparisonResults, RobustnessResults
from tests.support import ROOT
from tests.support.commands import FAST, snapshot
from tests.support.results import as_results, make_run
from tests.support.typed import mismatches

QUICK = ["--examples", "4", "--attack_steps", "2", "--attack_restarts", "1"]
WRITTEN = {"comparison.json", "comparison.html", "results.json", "trade_off.png", "epsilon.png"}


@pytest.fixture(scope="module")
def runs(agent, tmp_path_factory):
    """Folders by name: a base agent and two runs of it, of one step each."""
    folder = tmp_path_factory.mktemp("runs")
    found = {"base": agent}
    for name in ("sft", "aajr"):
        found[name] = folder / name
        recipe = str(ROOT / "recipes" / "congestion" / f"{name}.yaml")
        where = ["--model_name_or_path", str(agent), "--output_dir", str(found[name])]
        assert main(["train", "--config", recipe, *where, *FAST, "--logging_steps", "1"]) == 0
    return found


@pytest.fixture
def evaluation(runs, tmp_path):
    """A folder of an evaluation of these runs, without the evaluating."""
    numbers = {name: make_run(90.0 - i, 80.0, (70.0, 60.0, 50.0 + i)) for i, name in enumerate(runs)}
    weights = {name: weights_digest(path) for name, path in runs.items()}
    settings = {"environment": "congestion", "models": {name: str(path) for name, path in runs.items()}}
    folder = tmp_path / "evaluation"
    folder.mkdir()
    results = as_results(numbers, train_epsilon=0.25, settings=settings | {"weights": weights})
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.slow
def test_measures_writes_and_takes_what_it_measured(runs, tmp_path, capsys):
    named = [f"{name}={path}" for name, path in runs.items()]
    output = tmp_path / "new" / "comparison"
    assert main(["compare", *named, *QUICK, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in output.iterdir()} >= WRITTEN | {"lambda.png", "gradient_norm.png"}
    comparison = json.loads((output / "comparison.json").read_text())
    assert mismatches(comparison, ComparisonResults) == []
    assert mismatches(json.loads((output / "results.json").read_text()), RobustnessResults) == []
    assert [run["method"] for run in comparison["runs"].values()] == ["base", "sft", "aajr"]
    aajr = comparison["runs"]["aajr"]
    assert (aajr["regularizer_lambda"], aajr["epsilon"], aajr["seed"], aajr["examples"]) == (0.03, 0.25, 0, 4)
    assert aajr["gradient_norm"]["values"] == 2 and aajr["train_seconds"] > 0
    assert comparison["differing_settings"] == {}
    assert all(sentence in printed for sentence in comparison["sentences"]) and "comparison.html" in printed
    assert printed.startswith(comparison["sentences"][0]) and printed.count(comparison["sentences"][0]) == 1
    table = printed.removeprefix(comparison["sentences"][0]).split("Most robust")[0]
    assert max(map(len, table.splitlines())) <= 100 and f" {aajr['regularizer_lambda']:g} " in table

    again = tmp_path / "again"
    renamed = [f"first={runs['sft']}", f"second={runs['aajr']}"]
    assert main(["compare", *renamed, "--evaluation", str(output), "--output", str(again)]) == 0
    comparison = json.loads((again / "comparison.json").read_text())
    assert mismatches(comparison, ComparisonResults) == []
    taken = comparison["runs"]
    assert list(taken) == ["first", "second"]
    assert taken["second"]["worst_case_success"] == aajr["worst_case_success"]
    last = ["--evaluation", str(again), "--output", str(tmp_path / "last")]
    assert main(["compare", *renamed, *last]) == 0


def test_two_runs_are_the_least(runs, refused):
    assert "at least two runs" in refused("compare", runs["base"])


def test_two_runs_have_two_names(runs, refused):
    assert "named 'base'" in refused("compare", runs["base"], f"base={runs['sft']}")


def test_an_interrupted_run_is_refused_even_if_it_was_measured(runs, evaluation, tmp_path, refused):
    half = tmp_path / "half"
    shutil.copytree(runs["sft"], half)
    (half / "checkpoint-is-incomplete.txt").write_text("")
    for flags in (QUICK, ["--evaluation", evaluation]):
        assert "is incomplete" in refused("compare", runs["base"], half, *flags)


def test_a_folder_without_weights_is_refused(runs, evaluation, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        for flags in (QUICK, ["--evaluation", evaluation]):
            assert name in refused("compare", runs["base"], tmp_path / name, *flags)


def test_runs_of_different_worlds_are_refused(runs, tmp_path, refused):
    other = tmp_path / "other"
    shutil.copytree(runs["sft"], other)
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("environment: congestion", "environment: commons"))
    assert "trained for the world commons" in refused("compare", runs["sft"], other, *QUICK)


def test_a_damaged_recipe_is_one_line(runs, evaluation, tmp_path, refused):
    broken = tmp_path / "broken"
    shutil.copytree(runs["sft"], broken)
    (broken / "recipe.yaml").write_text("epsilon: wide\n")
    assert "`epsilon` must be a finite number" in refused("compare", runs["base"], broken, "--evaluation", evaluation)


def test_a_run_that_was_not_evaluated_is_named(runs, evaluation, tmp_path, refused):
    results = json.loads((evaluation / "results.json").read_text())
    del results["runs"]["aajr"], results["settings"]["weights"]["aajr"]
    (evaluation / "results.json").write_text(json.dumps(results))
    message = refused("compare", runs["base"], f"new={runs['aajr']}", "--evaluation", evaluation)
    assert "has no numbers of new" in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"runs": {}, "settings": {"weights": {}}}', None])
def test_a_damaged_evaluation_is_one_line(content, runs, evaluation, refused):
    if content is None:
        (evaluation / "results.json").unlink()
    else:
        (evaluation / "results.json").write_text(content)
    message = refused("compare", runs["base"], runs["sft"], "--evaluation", evaluation)
    assert "`--evaluation`" in message and "results.json" in message


@pytest.mark.parametrize(
    ("version", "words"), [(None, "the old attack, which used only the expected cost"), (3, "version 3")]
)
def test_an_evaluation_of_another_version_is_refused(version, words, runs, evaluation, refused):
    file = evaluation / "results.json"
    results = json.loads(file.read_text()) | {"version": version}
    if version is None:
        del results["version"], results["threat_model"]
        for run in results["runs"].values():
            del run["trust"], run["outcomes"], run["intervals"]
    file.write_text(json.dumps(results))
    message = refused("compare", runs["base"], runs["sft"], "--evaluation", evaluation)
    assert str(file) in message and words in message and "evaluate the runs again with `aajr evaluate`" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "tool_calls"}, "is about tool calls: give an evaluation in a world, made without `--dataset_name`"),
        ({"kind": "comparison"}, "of kind 'comparison', but 'robustness' is needed"),
        ({"kind": "weather"}, "of kind 'weather', but this release reads only robustness"),
        ({"kind": None, "runs": 3}, "not results of `aajr evaluate`"),
        (
            {"settings": {"temperatures": {"base": 0.7}}},
            "own temperature: evaluate the runs without `--own_temperature`",
        ),
    ],
)
def test_an_evaluation_of_another_kind_is_refused(changes, words, runs, evaluation, refused):
    results = json.loads((evaluation / "results.json").read_text())
    results |= changes | {"settings": results["settings"] | changes.get("settings", {})}
    results = {field: value for field, value in results.items() if value is not None}
    (evaluation / "results.json").write_text(json.dumps(results))
    assert words in refused("compare", runs["base"], runs["sft"], "--evaluation", evaluation)


@pytest.mark.slow
def test_an_evaluation_that_does_not_say_its_kind_yet_is_read(runs, evaluation, tmp_path, refused):
    results = json.loads((evaluation / "results.json").read_text())
    del results["kind"]
    (evaluation / "results.json").write_text(json.dumps(results))
    named = [f"{name}={path}" for name, path in runs.items()]
    assert main(["compare", *named, "--evaluation", str(evaluation), "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["kind"] == "robustness"
    for run in results["runs"].values():
        run["nominal_valid"] = 90.0
    (evaluation / "results.json").write_text(json.dumps(results))
    assert "is about tool calls" in refused("compare", *named, "--evaluation", evaluation)


@pytest.mark.slow
def test_runs_against_different_adversaries_are_measured_against_the_one_that_is_given(runs, tmp_path, refused):
    other = tmp_path / "other"
    shutil.copytree(runs["aajr"], other)
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe + "perturbation_norm: linf\n")
    message = refused("compare", runs["aajr"], other, *QUICK)
    assert (
        f"`perturbation_norm`: the agents were trained against different adversaries, l2 ({runs['aajr']})" in message
    )
    assert f"linf ({other})" in message and "with `--perturbation_norm`" in message
    output = tmp_path / "out"
    asked = ["--perturbation_norm", "linf", "--attacks", "nll", "--output", str(output)]
    assert main(["compare", str(runs["aajr"]), str(other), *QUICK, *asked]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["version"] == 2 and results["threat_model"]["perturbation_norm"] == "linf"
    assert results["runs"]["other"]["transferred_from"] == ["aajr"]


@pytest.mark.slow
def test_an_evaluation_says_first_whether_to_trust_it(runs, evaluation, tmp_path, capsys):
    results = json.loads((evaluation / "results.json").read_text())
    results["runs"]["aajr"]["trust"][0]["passed"] = False
    (evaluation / "results.json").write_text(json.dumps(results))
    named = [f"{name}={path}" for name, path in runs.items()]
    output = tmp_path / "out"
    assert main(["compare", *named, "--evaluation", str(evaluation), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    written = json.loads((output / "comparison.json").read_text())
    assert written["sentences"][0].startswith("Do not trust the success under attack of aajr, which fails the check")
    # Above the table, which is no wider than the longest that is still read.
    assert printed.startswith(written["sentences"][0]) and "Threat model: l2 ball over the whole prompt" in printed
    table = printed.removeprefix(written["sentences"][0]).split("Most robust")[0]
    assert max(map(len, table.splitlines())) <= 100 and printed.count("Do not trust") == 1
    taken = json.loads((output / "results.json").read_text())
    assert (taken["version"], taken["threat_model"]) == (2, results["threat_model"])


def test_a_number_that_is_absent_is_named(runs, evaluation, refused):
    results = json.loads((evaluation / "results.json").read_text())
    results["runs"]["sft"]["spectral_norm"] = None
    (evaluation / "results.json").write_text(json.dumps(results))
    named = [f"{name}={runs[name]}" for name in ("base", "sft")]
    assert "run 'sft', field 'spectral_norm'" in refused("compare", *named, "--evaluation", evaluation)


@pytest.mark.parametrize(
    "flags",
    [
        ["--examples", "8"],
        ["--epsilon", "0.1"],
        ["--env", "congestion"],
        ["--perturbed_tokens", "user"],
        ["--attacks", "nll"],
        ["--exhaustive"],
        ["--surrogate"],
        ["--transfer_from", "x"],
    ],
)
def test_nothing_is_measured_beside_an_evaluation(flags, runs, evaluation, refused):
    message = refused("compare", runs["base"], runs["sft"], "--evaluation", evaluation, *flags)
    assert f"`{flags[0]}`" in message and "`--evaluation`" in message


@pytest.mark.slow
def test_the_evaluation_itself_is_left_alone(runs, evaluation, tmp_path):
    before = snapshot(evaluation)
    named = [f"{name}={path}" for name, path in runs.items()]
    assert main(["compare", *named, "--evaluation", str(evaluation), "--output", str(tmp_path / "out")]) == 0
    assert snapshot(evaluation) == before
