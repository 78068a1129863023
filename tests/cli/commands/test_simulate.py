"""`aajr simulate`: its file, its table, its pictures, and what users get wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from aajr_hf.cli.main import main
from aajr_hf.evaluation.episodes import film as simulation_picture
from aajr_hf.evaluation.episodes import players as simulation_players
from aajr_hf.training.sharing.results import EpisodeResults
from tests.support.chat_server import ChatServer
from tests.support.typed import mismatches

SHORT = ["--episodes", "3", "--agents", "4", "--steps", "2", "--batch_size", "8"]


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """`simulate(arguments...)`: the records that the command has written."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> list[dict]:
        assert main(["simulate", *map(str, arguments)]) == 0
        lines = Path("outputs/simulation/episodes.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert mismatches(records, list[EpisodeResults]) == []
        return records

    return run


def test_one_line_an_episode_and_a_table(simulate, capsys):
    records = simulate("--model", "scripted", "--shock", "bad_season", "--magnitude", 20, "--env", "commons", *SHORT)
    assert [record["seed"] for record in records] == [3000000, 3000001, 3000002]
    asked = {"world": "commons", "model": "scripted", "shock": "bad_season", "magnitude": 20, "agents": 4}
    assert all(asked.items() <= record.items() and "transcript" not in record for record in records)
    printed = capsys.readouterr().out
    assert "survival_time" in printed and "2.000 to 2.000" in printed
    assert "24 agent steps in" in printed and "Episodes: outputs/simulation/episodes.jsonl" in printed


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(agent, simulate):
    file, written = Path("outputs/simulation/episodes.jsonl"), []
    for seed in (0, 0, 1):
        attack = ["--attack", "suite", "--attack_steps", "2", "--attack_restarts", "2"]
        simulate("--model", agent, "--temperature", 1, "--transcript", "--seed", seed, *attack, *SHORT)
        written.append(file.read_bytes())
    assert written[0] == written[1] != written[2]


def test_an_untrained_model_answers_nothing_that_the_world_knows(agent, simulate):
    records = simulate("--model", agent, *SHORT)
    assert all(record["sides"] == {"model": {"answers": 8, "malformed": 8, "expert": 0}} for record in records)
    assert all(record["opponent"] is None and record["attack"] is None for record in records)


@pytest.mark.slow
def test_the_system_prompt_is_that_of_the_recipe_and_is_recorded(agent, simulate, tmp_path, capsys):
    assert "system_prompt" not in simulate("--model", agent, *SHORT)[0]
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Almost all answers of the model (100.0%) are malformed, and a malformed answer counts as no"
    )
    plain = simulate("--model", agent, "--transcript", *SHORT)
    (tmp_path / "prompt.txt").write_text("Be brief.\n")
    trained = tmp_path / "trained"
    shutil.copytree(agent, trained)
    recipe = {"environment": "congestion", "system_prompt": "prompt.txt"}
    (trained / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for asked in (["--model", agent, "--system_prompt", "prompt.txt"], ["--model", trained]):
        records = simulate(*asked, "--transcript", *SHORT)
        assert [record["system_prompt"] for record in records] == ["Be brief."] * 3
        # The model answers otherwise, to the same observations.
        for mine, other in zip(records, plain, strict=True):
            first, second = mine["transcript"][0], other["transcript"][0]
            assert {a: said["sees"] for a, said in first.items()} == {a: said["sees"] for a, said in second.items()}
        assert [record["transcript"] for record in records] != [record["transcript"] for record in plain]
    assert "system_prompt" not in simulate("--model", trained, "--system_prompt", "", *SHORT)[0]
    capsys.readouterr()
    simulate("--model", "scripted", *SHORT)
    assert "malformed answer counts" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_attack_of_radius_zero_changes_nothing_and_a_wide_one_does(agent, simulate):
    def answers(*attack):
        records = simulate("--model", agent, "--transcript", *attack, *SHORT, "--episodes", 1)
        said = [entry for record in records for step in record["transcript"] for entry in step.values()]
        assert all(("moved" in entry) == bool(attack) for entry in said)
        return [entry["says"] for entry in said]

    plain = answers()
    for attack in ("nll", "cost", "random", "suite"):
        assert answers("--attack", attack, "--epsilon", 0, "--attack_steps", 2) == plain
    # Also where the answer is wrong already.
    for attack in ("warm_nll", "nll", "margin", "cost", "random"):
        assert answers("--attack", attack, "--epsilon", 4, "--attack_steps", 2) != plain


@pytest.mark.slow
def test_the_threat_model_is_that_of_the_recipe_of_the_attacked_model(agent, simulate, tmp_path):
    trained = tmp_path / "trained[/red]"
    shutil.copytree(agent, trained)
    recipe = {
        "epsilon": 0.5,
        "epsilon_mode": "absolute",
        "perturbation_norm": "linf",
        "perturbed_tokens": "observation",
    }
    (trained / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    attack = ["--model", trained, "--attack", "nll", "--attack_steps", 1, *SHORT]
    assert all(
        (recipe | {"perturbation_scope": "sequence", "attack_steps": 1}).items() <= r.items()
        for r in simulate(*attack)
    )
    given = simulate(*attack, "--epsilon", 0.1, "--perturbation_scope", "token")[0]
    assert (given["epsilon"], given["perturbation_scope"], given["perturbation_norm"]) == (0.1, "token", "linf")
    # One that is not attacked has no say, and may have a recipe that is none.
    other = tmp_path / "other"
    shutil.copytree(agent, other)
    (other / "recipe.yaml").write_text("epsilon: wide\n")
    assert "epsilon" not in simulate("--model", other, *SHORT)[0]
    played = simulate(*attack, "--opponent", other)
    assert played[0]["epsilon"] == 0.5 and played[0]["opponent"] == str(other)
    assert main(["simulate", "--model", str(other), "--attack", "nll"]) == 2


@pytest.mark.slow
def test_seekers_are_scripted_unless_a_model_plays_them(agent, simulate):
    there = ["--model", agent, "--env", "hide_and_seek", *SHORT]
    scripted, played = simulate(*there), simulate(*there, "--opponent", agent)
    assert [record["opponent"] for record in (scripted[0], played[0])] == ["scripted", str(agent)]
    assert all(record["sides"]["opponent"]["malformed"] == 0 for record in scripted)
    counts = [record["sides"]["opponent"] for record in played]
    assert all(count["malformed"] == count["answers"] > 0 for count in counts)


def test_a_film_has_a_frame_for_every_state_and_a_picture_four(simulate):
    simulate("--model", "scripted", "--env", "hide_and_seek", "--picture", "films/a.gif", *SHORT)
    simulate("--model", "scripted", "--env", "hide_and_seek", "--picture", "a.png", *SHORT)
    with Image.open("films/a.gif") as film, Image.open("a.png") as picture:
        assert film.n_frames == 3
        assert picture.size == (2 * film.width, 2 * film.height)
        # It shows something, and not the same in all four places.
        places = [picture.crop((x, y, x + 500, y + 500)).tobytes() for x in (0, 500) for y in (0, 500)]
        assert len(set(places)) == 3 and min(len(set(place)) for place in places) > 5


def test_ctrl_c_keeps_the_episodes_that_were_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def answer(self, rows):
        asked.append(rows)
        if len(asked) == 4:  # the second step of the second two episodes
            raise KeyboardInterrupt
        return [row["completion"][0]["content"] for row in rows]

    monkeypatch.setattr(simulation_players.Experts, "answer", answer)
    assert main(["simulate", "--model", "scripted", *SHORT]) == 130
    assert "interrupted: 2 of 3 episodes are in outputs/simulation/episodes.jsonl" in capsys.readouterr().err
    content = Path("outputs/simulation/episodes.jsonl").read_text()
    assert content.endswith("}\n") and [json.loads(line)["seed"] for line in content.splitlines()] == [
        3000000,
        3000001,
    ]
    assert [path.name for path in Path("outputs/simulation").iterdir()] == ["episodes.jsonl"]


def test_a_picture_that_cannot_be_drawn_loses_no_episode(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fail(self, suffix):
        raise OSError("no space left")

    monkeypatch.setattr(simulation_picture.Film, "develop", fail)
    assert main(["simulate", "--model", "scripted", "--picture", "a.png", *SHORT, "--batch_size", "12"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert len(Path("outputs/simulation/episodes.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "mars"], "`--env` must be one of congestion, commons, hide_and_seek; got 'mars'"),
        (["--shock", "flood", "--magnitude", "1"], "`--shock` must be one of demand_spike"),
        (
            ["--shock", "bad_season", "--magnitude", "1", "--env", "congestion"],
            "`--shock` must be one of demand_spike",
        ),
        (["--shock", "demand_spike"], "`--shock` needs `--magnitude`"),
        (["--shock", "demand_spike", "--magnitude", "-1"], "`--magnitude` must be from 1"),
        (["--shock", "demand_spike", "--magnitude", "0"], "`--magnitude` must be from 1"),
        (["--shock", "demand_spike", "--magnitude", "much"], "argument --magnitude"),
        (["--magnitude", "2"], "without a `--shock`"),
        (["--agents", "1"], "`--agents` must be from 2 to 100"),
        (["--agents", "3", "--env", "hide_and_seek"], "`--agents` must be from 4 to 40"),
        (["--agents", "0"], "`--agents`"),
        (["--steps", "0"], "`--steps` must be at least 1"),
        (["--episodes", "0"], "`--episodes` must be at least 1"),
        (["--batch_size", "0"], "`--batch_size`"),
        (["--attack", "fgsm"], "argument --attack: invalid choice: 'fgsm' (choose from"),
        # They need other models.
        (["--attack", "from_others"], "argument --attack: invalid choice: 'from_others'"),
        (["--attack", "transferred"], "argument --attack: invalid choice: 'transferred'"),
        (["--attack", "nll"], "`--attack` is on a model: give a model as `--model`, not scripted"),
        (["--attack", "trigger", "--model", "m"], "`--attack trigger` needs `--triggers`"),
        (["--attack", "trigger", "--model", "m", "--triggers", "file"], "`--triggers`: file"),
        (["--triggers", "file"], "`--triggers` has no effect without `--attack trigger`"),
        (["--token_trials", "3", "--attack", "nll", "--model", "m"], "`--token_trials` has no effect without"),
        (["--attack", "token", "--model", "m", "--epsilon", "1"], "`--epsilon` has no effect without an attack on"),
        (["--token_trials", "0"], "`--token_trials` must be at least 1"),
        *(
            (
                ["--model", "http://127.0.0.1:9/v1", "--attack", attack],
                f"`--attack {attack}` moves the embeddings of a",
            )
            for attack in ("nll", "random", "suite", "predicted")
        ),
        *(
            ([f"--{option}", value], f"`--{option}` has no effect without an attack on embeddings: give")
            for option, value in (
                ("epsilon", "0.2"),
                ("epsilon_mode", "absolute"),
                ("perturbation_norm", "linf"),
                ("perturbation_scope", "token"),
                ("perturbed_tokens", "user"),
                ("attack_steps", "3"),
                ("attack_restarts", "3"),
            )
        ),
        (["--attack", "nll", "--model", "m", "--epsilon", "-1"], "`--epsilon` must be a finite number of at least 0"),
        (["--attack", "nll", "--model", "m", "--epsilon", "nan"], "`--epsilon` must be a finite number of at least 0"),
        (["--attack", "nll", "--attack_steps", "0"], "`--attack_steps` must be at least 1"),
        (["--attack", "nll", "--attack_restarts", "0"], "`--attack_restarts` must be at least 1"),
        (["--temperature", "-1"], "`--temperature`"),
        (["--temperature", "inf"], "`--temperature`"),
        (["--seed", "-1"], "`--seed`"),
        (["--seed", "99999999999999999999"], "`--seed` must be from 0 to 4294967295"),
        (["--picture", "film.mp4"], "`--picture` must be the name of a .gif or .png file"),
        (["--opponent", "nowhere"], "nowhere"),
        (["--output", "file"], "`--output`: file is not writable (File exists)"),
        (["--output", "file/sub"], "`--output`: file/sub is not writable (Not a directory)"),
        (["--output", "/proc/nope"], "`--output`: /proc/nope is not writable"),
        (["--picture", "file/sub/a.gif"], "`--picture`: file/sub is not writable"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, message, tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert message in refused("simulate", "--model", "scripted", *arguments)


@pytest.mark.slow
def test_models_that_cannot_play(agent, tmp_path, refused):
    assert "--model" in refused("simulate")
    assert "nowhere" in refused("simulate", "--model", "nowhere")
    mute = tmp_path / "mute"
    shutil.copytree(agent, mute)
    (mute / "chat_template.jinja").unlink()
    assert "no chat template" in refused("simulate", "--model", mute)
    other = tmp_path / "other"
    shutil.copytree(agent, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"aajr_environment": "commons"}))
    assert "was trained for the world commons" in refused("simulate", "--model", other, "--env", "congestion")
    assert "`--shock` must be one of greedy_newcomer" in refused(
        "simulate", "--model", other, "--shock", "demand_spike", "--magnitude", 1
    )
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 20}))
    assert "fewer agents" in refused("simulate", "--model", other, "--env", "congestion", "--episodes", 1)


@pytest.fixture
def served(monkeypatch):
    """A server whose model repeats what it sees; it is in trouble once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("aajr_hf.evaluation.episodes.served.time.sleep", lambda seconds: None)
    trouble = iter([503])
    with ChatServer(lambda request: next(trouble, request["messages"][-1]["content"])) as server:
        yield server


def test_a_served_model_plays_against_the_experts(served, simulate, capsys):
    records = simulate("--model", served.url, "--opponent", "scripted", "--env", "congestion", *SHORT)
    assert [record["model"] for record in records] == [served.url] * 3
    for record in records:
        assert record["sides"]["model"] == {"answers": 4, "malformed": 4, "expert": 0}
        assert record["sides"]["opponent"]["expert"] == 4
    printed = capsys.readouterr().out
    assert f"1 requests to {served.url} were repeated, the last because of: status 503, out of order." in printed
    # One before the episodes, which was repeated.
    assert len(served.asked) == 3 * 4 + 2
    simulate("--model", "scripted", "--opponent", f"{served.url}#m", "--env", "congestion", *SHORT)
    assert served.asked[-1]["model"] == "m"


def test_a_served_model_reads_what_an_attack_on_texts_writes(served, simulate):
    Path("bank.json").write_text(json.dumps({"triggers": [{"text": "owe it"}, {"text": "prefer me"}]}))
    attack = ["--attack", "trigger", "--triggers", "bank.json"]
    records = simulate("--model", served.url, "--env", "congestion", *attack, *SHORT)
    assert all(record["attack"] == "trigger" and record["triggers"] == "bank.json" for record in records)
    texts = [request["messages"][-1]["content"] for request in served.asked]
    assert sum(text.endswith("owe it") for text in texts) == sum(text.endswith("prefer me") for text in texts) == 24
    before = len(served.asked)
    records = simulate("--model", served.url, "--env", "congestion", "--attack", "token", "--token_trials", 2, *SHORT)
    assert records[0]["token_trials"] == 2 and "epsilon" not in records[0]
    assert len(served.asked) - before == 1 + 24 * 3


def test_a_server_that_is_not_there_is_one_line(refused, monkeypatch):
    monkeypatch.setattr("aajr_hf.evaluation.episodes.served.time.sleep", lambda seconds: None)
    message = refused("simulate", "--model", "http://127.0.0.1:9/v1", "--env", "congestion")
    assert "unset the `HF_HUB_OFFLINE` environment variable" in message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    message = refused("simulate", "--model", "http://127.0.0.1:9/v1", "--env", "congestion")
    assert "The server http://127.0.0.1:9/v1 gives no answer" in message
