"""`aajr evaluate`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.main import main
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.robustness import evaluate as robustness
from aajr_hf.training.models.loading import load_tokenizer
from aajr_hf.training.sharing.reading import RESULTS_VERSION, trust_sentence
from aajr_hf.training.sharing.results import RobustnessResults
from tests.support import ROOT
from tests.support.commands import FEW, SMALL, fails
from tests.support.small_agents import untrained
from tests.support.typed import mismatches

RADII = {"0.5", "1", "1.5"}


@pytest.mark.slow
def test_all_attacks_in_a_world(tmp_path, capsys):
    """Of two sides; the other tests' worlds are of one."""
    folder, report = untrained(tmp_path / "agent", "hide_and_seek"), tmp_path / "report"
    other = shutil.copytree(folder, tmp_path / "other")
    attacks = ["--attacks", "all", "--transfer_from", str(other), "--token_trials", "3", "--exhaustive"]
    assert main(["evaluate", folder, *attacks, *SMALL, "--budget", "20", "--output", str(report)]) == 0
    results = json.loads((report / "results.json").read_text())
    assert mismatches(results, RobustnessResults) == []
    run = results["runs"]["agent"]
    assert list(run["attacks"]) == list(ATTACKS)
    for attack in run["attacks"].values():
        assert all(set(attack[field]) == RADII for field in ("attacked", "broken", "success", "alone"))
    assert run["transferred_from"] == [str(other)]
    token = run["token_attack"]
    assert token["radius"] > 0 and token["pga"].keys() == token.keys() - {"pga"}
    assert [len(shares) for shares in run["stability"]["shares"].values()] == [3] * 4
    assert list(run["text_attacks"]) == ["trigger"]
    assert (
        results["settings"]["attacks"] == [*ATTACKS, "token", "trigger"] and results["settings"]["exhaustive"] is True
    )
    assert results["settings"]["transfer_from"] == [str(other)]
    printed, page = capsys.readouterr().out, (report / "report.html").read_text()
    assert run["membership"]["budget"] == 20 and run["membership"]["examples"] == 5
    for text in (
        "Attacks, one after the other",
        "alone",
        "mean radius",
        "Stability of the inner ascent",
        "All attacks together",
    ):
        assert text in printed and text in page
    for text in ("Token attack", "Amplification budget", "F_gamma"):
        assert text in printed and text in page


@pytest.mark.slow
def test_results_say_what_was_measured_against_whom_and_whether_to_trust_it(agent, tmp_path, capsys):
    report = tmp_path / "report"
    assert main(["evaluate", f"mine={agent}", f"again={agent}", *SMALL, "--output", str(report)]) == 0
    printed, page = capsys.readouterr().out, (report / "report.html").read_text()
    results = json.loads((report / "results.json").read_text())
    assert results["version"] == RESULTS_VERSION == 2 and results["train_epsilon"] == 0.25
    assert mismatches(results, RobustnessResults) == []
    assert results["threat_model"] == asdict(ThreatModel())
    assert results["settings"]["attacks"] == list(ATTACKS) and "threat" not in results["settings"]
    for name, other in (("mine", "again"), ("again", "mine")):
        run = results["runs"][name]
        assert run["transferred_from"] == [other]
        assert all(rule.keys() == {"rule", "passed", "detail"} for rule in run["trust"]) and len(run["trust"]) >= 4
        for field in ("nominal_success", "sampled_success"):
            low, high = run["intervals"][field]
            assert 0 <= low <= run[field] <= high <= 100 and len(run["outcomes"][field]) == run["examples"] == 5
        for field in ("worst_case_success", "sampled_worst_case_success"):
            assert set(run[field]) == set(run["intervals"][field]) == RADII
            for multiple, outcomes in run["outcomes"][field].items():
                assert run[field][multiple] == pytest.approx(20 * sum(outcomes))
    sentence = trust_sentence(results)
    # Before the first table, and before all else on the page.
    assert printed.startswith(sentence) and printed.count(sentence) == 1
    assert html.unescape(re.search(r"<li>(.*?)</li>", page, re.DOTALL)[1].strip()) == sentence
    assert "Threat model: l2 ball over the whole prompt" in printed


@pytest.mark.slow
def test_an_attack_that_never_looks_at_the_prompt_itself_leaves_no_more_than_is_right_without(agent, tmp_path):
    report = tmp_path / "report"
    assert main(["evaluate", str(agent), *SMALL, "--attacks", "random", "--output", str(report)]) == 0
    (run,) = json.loads((report / "results.json").read_text())["runs"].values()
    assert run["nominal_success"] == 0 and set(run["worst_case_success"].values()) == {0}
    shares = [run["sampled_success"], *run["sampled_worst_case_success"].values()]
    assert shares == sorted(shares, reverse=True)
    costs = [run["nominal_cost"], *run["worst_case_cost"].values()]
    assert costs == sorted(costs)


@pytest.mark.slow
def test_names_and_paths_are_no_markup(agent, tmp_path, capsys):
    report = tmp_path / "out[" / "bold]"
    assert main(["evaluate", f"[/red]={agent}", f"[bold]={agent}", *SMALL, *FEW, "--output", str(report)]) == 0
    printed = capsys.readouterr()
    assert "[/red]" in printed.out and "[bold]" in printed.out and f"Report: {report}/report.html" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attacks", "fgsm"], f"`--attacks`: unknown attack 'fgsm': choose from {', '.join([*ATTACKS, 'token'])}"),
        (["--attacks", "nll", "folder"], "unknown attack 'folder': choose from"),
        (
            ["--attacks", "token"],
            "`--attacks`: token cannot be used alone: add an attack within the radii, such as warm_nll",
        ),
        (["--attacks", "transferred", "from_others"], "`--attacks`: transferred, from_others cannot be used alone"),
        (
            ["--attacks", "nll", "transferred"],
            "`--attacks`: transferred needs perturbations found on other models, and there are none: evaluate several agents, "
            "or give `--transfer_from` or `--surrogate`",
        ),
        (["--attacks", "nll", "--transfer_from", "x"], "`--transfer_from` has no effect without one of the attacks"),
        (["--attacks", "nll", "--surrogate"], "`--surrogate` has no effect without one of the attacks"),
        (["--attacks", "nll", "token", "--token_trials", "0"], "`--token_trials` must be at least 1"),
        (["--attack_steps", "0"], "`--attack_steps` must be at least 1; got 0"),
        (["--attack_restarts", "0"], "`--attack_restarts` must be at least 1; got 0"),
        (["--sanity"], "unrecognized arguments: --sanity"),
        (["--epsilon", "0"], "`--epsilon` must be above 0, because it is the unit of the attack radii"),
        (["--epsilon", "inf"], "`--epsilon` must be a finite number of at least 0; got inf"),
        (["--epsilon", "nan"], "`--epsilon` must be a finite number of at least 0; got nan"),
        (["--epsilon_mode", "wide"], "argument --epsilon_mode: invalid choice: 'wide'"),
        (["--perturbation_norm", "l3"], "argument --perturbation_norm: invalid choice: 'l3'"),
        (["--perturbation_scope", "world"], "argument --perturbation_scope: invalid choice: 'world'"),
        (["--perturbed_tokens", "some"], "argument --perturbed_tokens: invalid choice: 'some'"),
        (["--multiples", "0"], "`--multiples` must be finite numbers above 0"),
        (["--budget", "0"], "`--budget` must be a finite number above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "evaluate", "nowhere", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_that_nothing_transfers_from_is_refused_before_anything_is_written(agent, tmp_path, capsys):
    other, report = untrained(tmp_path / "other", "hide_and_seek"), tmp_path / "report"
    wide = untrained(tmp_path / "wide", "congestion", width=64)
    output = ["--surrogate", "--output", str(report)]
    for source, reason in ((other, "give different tokens for the prompts"), (wide, "width 64")):
        # Several sources: the one that does not fit is named.
        good = str(shutil.copytree(agent, tmp_path / "good", dirs_exist_ok=True))
        message = fails(capsys, "evaluate", f"mine={agent}", "--transfer_from", good, source, *output)
        assert f"`--transfer_from`: no perturbation transfers from {source}" in message and reason in message
    message = fails(capsys, "evaluate", str(agent), "--transfer_from", str(tmp_path / "gone"), *output)
    assert message.startswith("error: `--transfer_from`: There is no folder") and "gone" in message
    message = fails(capsys, "evaluate", str(agent), "--transfer_from", f"{agent}/", *output)
    assert f"`--transfer_from`: {agent}/ is one of the agents" in message
    message = fails(capsys, "evaluate", f"{wide}={agent}", "--transfer_from", wide, *output[1:])
    assert (
        f"`--transfer_from`: an agent is also named {wide}: give the agent another name, as in NAME=MODEL" in message
    )
    assert not report.exists()


@pytest.mark.slow
def test_agents_with_other_tokens_are_measured_apart_and_a_note_says_so(agent, tmp_path, capsys):
    other, report = untrained(tmp_path / "other", "commons", says=False), tmp_path / "report"
    models = [f"one={agent}", f"two={other}", f"three={agent}"]
    assert main(["evaluate", *models, *SMALL, *FEW, "--output", str(report)]) == 0
    printed = capsys.readouterr().err
    runs = json.loads((report / "results.json").read_text())["runs"]
    assert [run["transferred_from"] for run in runs.values()] == [["three"], [], ["one"]]
    assert "transferred" not in runs["two"]["attacks"] and "from_others" in runs["one"]["attacks"]
    notes = [line for line in printed.splitlines() if line.startswith("note: ")]
    assert [note.partition(":")[2].partition(" are")[0] for note in notes] == [" one and two", " two and three"]
    assert all("give different tokens for the prompts" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/nonexistent/x", "~nobody/x", ""])
def test_a_folder_that_is_not_there_is_said_to_be_none(name, agent, refused):
    recipe = ["--config", ROOT / "recipes" / "congestion" / "sft.yaml", "--use_cpu", "true"]
    for command in (
        ["evaluate", f"agent={name}"],
        ["simulate", "--model", name],
        ["simulate", "--model", agent, "--opponent", name],
        ["train", *recipe, "--model_name_or_path", name],
    ):
        if name or command[0] != "train":  # which misses an empty one
            assert f"There is no folder {name!r}: give the folder of a model" in refused(*command)


def test_what_is_not_on_the_hub_is_said_not_to_be_here_either(tmp_path, monkeypatch, refused):
    def fail(name, **_):
        raise OSError("no network")

    (tmp_path / "here").mkdir()
    for loader in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", fail)
    for name in ("nowhere", "missing/folder"):
        message = f"{name} cannot be loaded (and no such folder exists here): no network"
        assert message in refused("evaluate", name)
    # A name of the Hub, too, but nearer.
    assert "There is no folder 'here/x'" in refused("evaluate", "here/x")
    with pytest.raises(ValueError, match="There is no folder 'here/x'"):
        load_tokenizer("here/x")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["[]", '{"train_runtime": 3', '{"train_runtime": NaN}'])
def test_damaged_results_of_a_training_are_found_before_measuring(content, agent, copied, unmeasured, refused):
    (copied / "train_results.json").write_text(content)
    for command in (["evaluate"], *([["evaluate", "--surrogate"], ["compare", agent]] if content == "[]" else [])):
        assert "copied/train_results.json does not contain valid training results" in refused(*command, copied)


def test_a_budget_that_is_none_is_found_before_measuring(agent, copied, unmeasured, refused):
    (copied / "recipe.yaml").write_text("amplification_budget: -5\n")
    for models in ([copied], [agent, copied]):
        assert "copied/recipe.yaml: `amplification_budget` must be a finite" in refused("evaluate", *models)


@pytest.mark.slow
def test_ctrl_c_while_measuring_leaves_nothing(agent, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before, calls = robustness.attack_within, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return before(*arguments)

    monkeypatch.setattr(robustness, "attack_within", interrupted)
    assert main(["evaluate", str(agent), *SMALL, "--output", "report"]) == 130
    assert "interrupted: no batch was finished." in capsys.readouterr().err and not list(tmp_path.iterdir())
    # Earlier results stay as they are.
    Path("report").mkdir()
    Path("report/results.json").write_text("before")
    calls.clear()
    assert main(["evaluate", str(agent), *SMALL, "--output", "report"]) == 130
    assert [path.name for path in Path("report").iterdir()] == ["results.json"]
    assert Path("report/results.json").read_text() == "before"
