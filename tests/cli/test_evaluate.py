"""`aajr evaluate` with attacks beside PGA: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.main import main
from aajr_hf.environments import WORLDS, expert_rows
from aajr_hf.training.base_agent import small_llama, train_tokenizer
from aajr_hf.training.loading import load_tokenizer

from .test_bad_input import refused  # noqa: F401
from .test_main import ROOT, agent, fails  # noqa: F401


def untrained(folder, world):
    rows = expert_rows(world, 100, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    model = small_llama(tokenizer, seed=0)
    model.config.aajr_environment = world
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("world", WORLDS)
def test_all_attacks_in_every_world(world, tmp_path, capsys):
    folder, report = untrained(tmp_path / "agent", world), tmp_path / "report"
    small = ["--examples", "5", "--batch_size", "3", "--attack_steps", "4", "--attack_restarts", "1", "--sanity"]
    attacks = ["--attacks", "random", "transfer", "token", "--transfer_from", folder, "--token_trials", "3"]
    assert main(["evaluate", folder, *attacks, *small, "--budget", "20", "--output", str(report)]) == 0
    results = json.loads((report / "results.json").read_text())
    run = results["runs"]["agent"]
    by_multiple = {"random", "transfer", "pga_quarter_steps"}
    own_radius = {"token", "pga_at_token_radius", "pga_unbounded"}
    assert run["attacks"].keys() == by_multiple | own_radius
    assert all(run["attacks"][name]["radius"] > 0 for name in own_radius)
    assert set(run["attacks"]["random"]["cost"]) == {"0.5", "1", "2"}
    assert [len(shares) for shares in run["stability"]["shares"].values()] == [3] * 4
    assert len(run["sanity"]) == 6 and all(rule.keys() == {"rule", "passed", "detail"} for rule in run["sanity"])
    assert results["settings"]["attacks"] == ["pga", "random", "transfer", "token"]
    assert results["settings"]["transfer_from"] == folder
    printed, page = capsys.readouterr().out, (report / "report.html").read_text()
    assert run["membership"]["budget"] == 20 and run["membership"]["examples"] == 5
    for text in ("Other attacks", "Checks of the attack", "token substitutions", "Stability of the inner ascent"):
        assert text in printed and text in page
    for text in ("Amplification budget", "F_gamma"):
        assert text in printed and text in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attacks", "fgsm"], "`--attacks`: there is no attack 'fgsm': choose of pga, random, transfer, token"),
        (["--attacks", "transfer"], "`--transfer_from MODEL`"),
        (["--transfer_from", "x"], "`--attacks`"),
        (["--attacks", "token", "--token_trials", "0"], "`--token_trials` must be at least 1"),
        (["--sanity", "--attack_steps", "3"], "`--attack_steps` must be at least 4; got 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "evaluate", "nowhere", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_model_that_nothing_transfers_from_is_refused_before_anything_is_written(agent, tmp_path, capsys):  # noqa: F811
    other, report = untrained(tmp_path / "other", "hide_and_seek"), tmp_path / "report"
    attack = ["--attacks", "transfer", "--transfer_from"]
    message = fails(capsys, "evaluate", f"mine={agent}", *attack, other, "--output", str(report))
    assert "`--transfer_from`" in message and "mine" in message and "other tokens" in message
    message = fails(capsys, "evaluate", str(agent), *attack, str(tmp_path / "gone"), "--output", str(report))
    assert "gone" in message and not report.exists()


@pytest.mark.parametrize("name", ["/nonexistent/x", "./x", "~nobody/x", "../gone", ""])
def test_a_folder_that_is_not_there_is_said_to_be_none(name, agent, refused):  # noqa: F811
    recipe = ["--config", ROOT / "recipes" / "congestion" / "sft.yaml", "--use_cpu", "true"]
    for command in (
        ["evaluate", f"agent={name}"],
        ["simulate", "--model", name],
        ["simulate", "--model", agent, "--opponent", name],
        ["train", *recipe, "--model_name_or_path", name],
    ):
        if name or command[0] != "train":  # which misses an empty one
            assert f"There is no folder {name!r}: give the folder of a model" in refused(*command)


def test_what_is_not_on_the_hub_is_said_not_to_be_here_either(tmp_path, monkeypatch, refused):  # noqa: F811
    def fail(name, **_):
        raise OSError("no network")

    (tmp_path / "here").mkdir()
    for loader in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", fail)
    for name in ("nowhere", "missing/folder"):
        message = f"{name} cannot be loaded (there is no such folder here, either): no network"
        assert message in refused("evaluate", name)
    # A name of the Hub, too, but nearer.
    assert "There is no folder 'here/x'" in refused("evaluate", "here/x")
    with pytest.raises(ValueError, match="There is no folder 'here/x'"):
        load_tokenizer("here/x")


@pytest.fixture
def copied(agent, tmp_path):  # noqa: F811
    """An agent whose folder can be damaged."""
    return shutil.copytree(agent, tmp_path / "copied")


@pytest.fixture
def unmeasured(monkeypatch):
    """Nothing is measured: a mistake is found before."""
    monkeypatch.setattr("aajr_hf.evaluation.robustness.evaluate_agent", lambda *_, **__: pytest.fail("measured"))


@pytest.mark.parametrize(
    "content", ["[]", '{"train_runtime": 3', '{"train_runtime": "long"}', '{"train_runtime": NaN}']
)
def test_damaged_results_of_a_training_are_found_before_measuring(content, agent, copied, unmeasured, refused):  # noqa: F811
    (copied / "train_results.json").write_text(content)
    for command in (["evaluate"], ["compare", agent]):
        assert "copied/train_results.json holds no results of a training" in refused(*command, copied)


def test_a_budget_that_is_none_is_found_before_measuring(agent, copied, unmeasured, refused):  # noqa: F811
    (copied / "recipe.yaml").write_text("amplification_budget: -5\n")
    for models in ([copied], [agent, copied]):
        assert "copied/recipe.yaml: `amplification_budget` must be a finite" in refused("evaluate", *models)
