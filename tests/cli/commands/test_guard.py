"""`aajr guard` and `aajr simulate --share_cache`: what they write and record, and what users get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aajr_hf.cli.commands.guard import _told_anyway
from aajr_hf.cli.main import main
from aajr_hf.guard.guard import CacheGuard
from aajr_hf.guard.saving import load_guard, save_guard
from aajr_hf.training.sharing.results import EpisodeResults, GuardResults
from tests.support.typed import mismatches

SHORT = ["--agents", 3, "--steps", 2, "--batch_size", 6, "--examples", 5]
EPISODES = ["--episodes", 2, "--agents", 3, "--steps", 2]


@pytest.fixture(scope="module")
def guard(agent, tmp_path_factory) -> Path:
    """A guard of the agent's caches, after two steps."""
    folder = tmp_path_factory.mktemp("guards") / "new" / "guard"
    assert main(["guard", str(agent), "--private", "owe", "prefer", "--output", str(folder), *map(str, SHORT)]) == 0
    return folder


def simulated(folder: Path, agent: Path, *options: object) -> list[dict]:
    command = ["--model", agent, "--share_cache", "--transcript", "--output", folder, *EPISODES, *options]
    assert main(["simulate", *map(str, command)]) == 0
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert mismatches(records, list[EpisodeResults]) == []
    return records


@pytest.mark.slow
def test_a_guard_is_saved_with_its_numbers_and_a_card(guard, agent):
    assert sorted(path.name for path in guard.iterdir()) == ["README.md", "guard.json", "model.safetensors"]
    results = json.loads((guard / "guard.json").read_text())
    assert mismatches(results, GuardResults) == []
    assert (
        results["model"] == str(agent) and results["world"] == "congestion" and results["private"] == ["owe", "prefer"]
    )
    leaks = [(leak["word"], leak["links"]) for leak in results["leakage"]]
    assert leaks == [("owe", "one"), ("prefer", "one"), ("owe", "all"), ("prefer", "all")]
    assert results["widths"] == [[128, 128]] * 2
    assert (results["steps"], results["decoder_steps"]) == (2, 10)
    card = (guard / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: aajr-hf" in card
    leak = results["leakage"][0]
    assert f"| owe | one | {leak['chance']:.1f} | {leak['bound']:.1f} | {leak['raw']:.1f} |" in card
    assert all(leak["chance"] < leak["bound"] <= 100 for leak in results["leakage"])
    loaded = load_guard(guard)
    assert loaded(_states())[0][0].shape == (1, 4, 3, 32)
    assert torch.equal(load_file(guard / "model.safetensors")["encoder.0.weight"], loaded.encoder[0].weight)


def test_words_that_the_rest_of_the_message_says_are_named():
    def leak(word, named):
        return {"word": word, "bound": 40.0, "fresh": 30.0, "larger": named}

    results = {"examples": 100, "leakage": [leak("owe", 49.0), leak("need", 51.0), leak("need", 90.0)]}
    # Of 100 senders, 49 may be named where no more than 40 are expected.
    assert _told_anyway(results) == ["need"]


def _states():
    return [(torch.randn(1, 4, 3, 32), torch.randn(1, 4, 3, 32)) for _ in range(2)]


@pytest.mark.slow
def test_simulated_agents_read_caches_and_a_guard_changes_what_they_say(guard, agent, tmp_path):
    raw = simulated(tmp_path / "raw", agent)
    assert all(record["share_cache"] is True and "guard" not in record for record in raw)
    sees = raw[0]["transcript"][0]["agent_1"]["sees"]
    assert sees.split()[::2][:3] == ["need", "prefer", "owe"] and sees.count("owe") == 2
    guarded = simulated(tmp_path / "guarded", agent, "--guard", guard)
    assert guarded[0]["guard"] == str(guard)
    said = [[entry["says"] for entry in r[0]["transcript"][0].values()] for r in (raw, guarded)]
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--private", "owes"],
            "`--private` must be different words that agents alone know, of need, prefer, owe; got owes",
        ),
        (
            ["--private", "owe", "--env", "hide_and_seek"],
            "In hide_and_seek, no words of an observation come from peers",
        ),
        (["--private", "owe", "--beta", -1], "`--beta` must be a finite number of at least 0"),
        (["--private", "owe", "--agents", 1], "`--agents` must be from 2 to 100; got 1."),
        (["--private", "owe", "--steps", 0], "`--steps` must be at least 1; got 0."),
        (["--private", "owe", "--decoder_steps", 0], "`--decoder_steps` must be at least 1; got 0."),
        (["--private", "owe", "--output", "."], "`--output`: . is not an empty folder"),
        ([], "--private"),
    ],
)
def test_what_a_guard_cannot_be_made_of(refused, agent, tmp_path, options, message):
    (tmp_path / "something").touch()
    assert message in refused("guard", agent, *options)


def test_several_processes_are_refused(refused, agent, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "`aajr guard` runs in one process" in refused("guard", agent, "--private", "owe")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guard", "x"], "`--guard` has no effect without `--share_cache`"),
        (["--share_cache", "--attack", "nll"], "`--attack` cannot be used with `--share_cache`"),
        (["--share_cache", "--opponent", "scripted"], "`--opponent` cannot be used with `--share_cache`"),
        (["--share_cache", "--guard", "x"], "`--guard`: there is no guard in x: make one with `aajr guard`."),
        (["--share_cache", "--model", "scripted"], "`--share_cache` needs the caches of a model that is loaded here"),
        (["--share_cache", "--model", "http://localhost:1/v1"], "`--share_cache` needs the caches of a model"),
        (
            ["--share_cache", "--env", "hide_and_seek", "--agents", 4],
            "In hide_and_seek, no words of an observation come from peers",
        ),
    ],
)
def test_what_cannot_be_shared(refused, agent, options, message):
    assert message in refused("simulate", "--model", agent, *EPISODES, *options)


def test_a_guard_for_another_model_or_a_damaged_one_is_refused(refused, agent, tmp_path):
    results = {
        "model": "m",
        "private": [],
        "world": "w",
        "beta": 1,
        "raw_success": 1,
        "guarded_success": 1,
        "leakage": [],
    }
    results |= dict.fromkeys(("agents", "steps", "decoder_steps", "batch_size", "examples", "seed"), 1)
    small = CacheGuard([(8, 8)], 2)
    save_guard(small, results | {"bottleneck": 2, "widths": [[8, 8]]}, tmp_path / "small")
    asked = ["simulate", "--model", agent, *EPISODES, "--share_cache", "--guard", "small"]
    assert "The guard is for caches of 1 layers of widths 8+8, but those of the model" in refused(*asked)
    save_file({"keys": torch.zeros(1)}, tmp_path / "small" / "model.safetensors")
    assert "`--guard`: the guard in small is damaged" in refused(*asked)


def test_a_base_agent_of_a_world_without_messages_is_refused(refused):
    message = refused("init-agent", "out", "--environment", "hide_and_seek", "--share_cache")
    assert "`--share_cache`: in hide_and_seek, no words of an observation come from peers" in message
