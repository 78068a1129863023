"""scripts/study.py: what each claim trains and attacks, and how a study goes on."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from claims import CLAIMS, episodes, forgetting, price, rank, stronger
from claims.cells import RECIPES, Agent, Cell, saved_every, training_numbers
from claims.methods import METHODS
from claims.preset import PRESETS
from shared.commands import ROOT
from study import main, part_of

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.parsing import RecipeParser
from aajr_hf.cli.arguments.trainers import CONFIGS
from aajr_hf.cli.launching.launch import LaunchArguments
from tests.support.claims import FIRST, claim_run

FULL = replace(PRESETS["full"], model=Path("model"))


def all_agents(preset=FULL) -> dict[tuple, Agent]:
    agents = {}
    for claim in CLAIMS.values():
        for cell in claim.cells(preset, FIRST):
            for agent in getattr(cell, "agents", {}).values():
                agents[agent.recipe, json.dumps(agent.fields, sort_keys=True)] = agent
    return agents


def test_every_agent_of_the_full_study_has_valid_settings():
    parser = RecipeParser((TrainArguments, LaunchArguments, CONFIGS["sft"]), prog="aajr train")
    agents = all_agents()
    assert len(agents) > 80
    told = [(RECIPES / f"{agent.recipe}.yaml", agent.fields) for agent in agents.values()]
    real = ROOT / "recipes" / "smollm2-135m" / "congestion"
    told += [(real / f"{recipe}.yaml", fields) for recipe, fields in (forgetting.METHODS | rank.METHODS).values()]
    for recipe, settings in told:
        fields = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        config = parser.parse(["--config", str(recipe), "--use_cpu", "true", *fields])[-1]
        # Training refuses this, after a look at the model.
        dropout = (config.model_init_kwargs or {}).get("attention_dropout", 0)
        assert not (dropout and config.regularizer != "none" and config.penalty_fraction < 1), (recipe, settings)


def test_seeds_of_tuning_are_none_of_the_results_and_keys_of_cells_are_unique():
    for preset in PRESETS.values():
        assert not set(preset.seeds) & set(preset.tuning_seeds) and set(preset.methods) <= set(METHODS)
        for claim in CLAIMS.values():
            keys = [cell.key for cell in claim.cells(replace(preset, model=Path("model")), FIRST)]
            assert len(set(keys)) == len(keys)
            assert keys or (claim is stronger and "matched" not in preset.methods)


def test_shards_are_disjoint_and_complete():
    cells = list(range(11))
    parts = [part_of(f"{i}/3", cells) for i in (1, 2, 3)]
    assert sorted(sum(parts, [])) == cells and part_of(None, cells) == cells
    for wrong in ("0/3", "4/3", "x", "1"):
        with pytest.raises(ValueError, match="--shard"):
            part_of(wrong, cells)


def test_agents_of_a_real_model_start_from_the_one_that_learnt_the_task(tmp_path, monkeypatch):
    ran = []

    def run_command(command, folder):
        ran.append(command)
        if command[0] == "train":
            out = Path(command[command.index("--output_dir") + 1])
            out.mkdir(parents=True)
            (out / "train_results.json").write_text("{}")
            return
        numbers = claim_run("", "seed 1", "", amplification=5.0)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(
            json.dumps({"runs": {part.partition("=")[0]: numbers for part in command if "=" in part}})
        )

    def measured(command, **_):
        names = [part.partition("=")[0] for part in command if "=" in part]
        Path(command[command.index("--output") + 1]).write_text(json.dumps({name: {"kl": 0.5} for name in names}))

    monkeypatch.setattr("shared.commands.run_command", run_command)
    monkeypatch.setattr("claims.forgetting.run_command", run_command)
    monkeypatch.setattr("claims.forgetting.subprocess.run", measured)
    preset = replace(PRESETS["smoke"], model=Path("model"))
    cells = forgetting.cells(preset, {})
    runs = [run for cell in cells for run in cell.measure("forgetting", tmp_path)]
    starts = [command[command.index("--model_name_or_path") + 1] for command in ran if command[0] == "train"]
    learnt, adapted = (
        Path(command[command.index("--output_dir") + 1])
        for command in ran
        if command[0] == "train" and "model" in command
    )
    assert learnt != adapted
    assert starts == ["model", "model", *[str(learnt)] * (len(forgetting.METHODS) - 1)]
    trained = {command[command.index("--output_dir") + 1] for command in ran if command[0] == "train"}
    # The plain agent's recipe has no adversary.
    attacked = [command for command in ran if command[0] == "evaluate"]
    assert {command[command.index("--perturbed_tokens") + 1] for command in attacked} == {"observation"}
    ran.clear()
    for cell in rank.cells(preset, {}):
        cell.measure("rank", tmp_path)
    # Two agents of `rank` are those of `forgetting`, and start from the same one.
    assert sum(command[0] == "train" for command in ran) == len(rank.METHODS) - 2
    ran.clear()
    for cell in cells:
        replace(cell, steps=7).measure("forgetting", tmp_path)
    new = {command[command.index("--output_dir") + 1] for command in ran if command[0] == "train"}
    assert len(new) == len(trained) and not new & trained
    ran.clear()
    assert [one["agent"] for one in runs] == ["sft", *forgetting.METHODS] and {one["kl"] for one in runs} == {0.5}
    assert [run for cell in cells for run in cell.measure("forgetting", tmp_path)] == runs and ran == []
    assert forgetting.cells(PRESETS["smoke"], {}) == []


def test_episodes_are_played_once_under_each_condition(tmp_path, monkeypatch, commands):
    def run_command(command, folder):
        commands.append(command)
        if command[0] == "simulate":
            folder.mkdir(parents=True)
            lines = [json.dumps({"metrics": {"hidden": share}}) for share in (0.5, 1.0)]
            (folder / "episodes.jsonl").write_text("\n".join(lines))

    monkeypatch.setattr("claims.episodes.run_command", run_command)
    preset = replace(PRESETS["smoke"], worlds=("hide_and_seek",), bases=(0, 1))
    stored, other = episodes.cells(preset, FIRST)
    runs = stored.measure("episodes", tmp_path)
    assert [one["agent"] for one in runs] == ["base", "sft", "adversarial", "AAJR, amortised"]
    assert all(one["success"] == dict.fromkeys(episodes.CONDITIONS, 75.0) for one in runs)
    played = [command for command in commands if command[0] == "simulate"]
    assert len(played) == 4 * len(episodes.CONDITIONS)
    assert sum("--shock" in command for command in played) == 4 * (len(episodes.CONDITIONS) - 1)
    commands.clear()
    assert stored.measure("episodes", tmp_path) == runs and commands == []
    other.measure("episodes", tmp_path)
    assert commands[0][0] == "init-agent" and commands[0][-1] == "1"


@pytest.fixture
def commands(monkeypatch):
    """The commands that would run. They leave the files that the study reads."""
    ran = []

    def run_command(command, folder):
        ran.append(command)
        if command[0] == "calibrate":
            (Path(command[1]) / "generation_config.json").write_text('{"temperature": 0.5}')
        elif command[0] == "evaluate":
            radii = command[command.index("--multiples") + 1 :]
            radii = radii[: next((i for i, part in enumerate(radii) if part.startswith("--")), len(radii))]
            names = [part.partition("=")[0] for part in command if "=" in part]
            numbers = claim_run("", "seed 1", "", amplification=5.0, spectral_norm=9.0)
            numbers |= {name: dict.fromkeys(radii, 40.0) for name in numbers if name.endswith("worst_case_success")}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps({"runs": dict.fromkeys(names, numbers)}))
        else:
            out = Path(command[command.index("--output_dir") + 1])
            out.mkdir(parents=True)
            (out / "train_results.json").write_text("{}")

    monkeypatch.setattr("shared.commands.run_command", run_command)
    monkeypatch.setattr("claims.cells.run_command", run_command)
    return ran


def start(monkeypatch, work: Path, *argv: str) -> None:
    argv = ["study.py", "--preset", "smoke", "--work", str(work), "--jobs", "1", *argv]
    monkeypatch.setattr(sys, "argv", argv)
    main()


@pytest.mark.slow
def test_a_study_writes_its_page_goes_on_where_it_stopped_and_replaces_what_has_other_settings(
    tmp_path, monkeypatch, commands
):
    start(monkeypatch, tmp_path, "--claims", "tuning", "calibration")
    tried = [command for command in commands if command[0] == "train"]
    assert len(tried) == 4 + 4  # one value of four methods, and the chosen ones on the seed of the results
    assert {command[command.index("--seed") + 1] for command in tried} == {"1", "100"}
    report = tmp_path / "report"
    text = (report / "study.md").read_text()
    assert all(CLAIMS[name].TITLE in text for name in ("tuning", "calibration")) and price.TITLE not in text
    assert (report / "study-tuning.png").is_file() and not (report / "study-price.png").exists()
    known = (report / "study.json").read_text()
    commands.clear()
    start(monkeypatch, tmp_path, "--claims", "tuning", "calibration")
    assert commands == [] and (report / "study.json").read_text() == known
    monkeypatch.setitem(METHODS, "AAJR", METHODS["adversarial"])
    start(monkeypatch, tmp_path, "--claims", "tuning")
    assert [command[0] for command in commands] == ["evaluate"]  # the agent has the settings of another that is there
    assert len(json.loads((report / "study.json").read_text())) == len(json.loads(known))


def test_what_is_known_of_a_real_model_stays_where_there_is_none(tmp_path, monkeypatch, commands):
    report = tmp_path / "report"
    report.mkdir()
    known = [claim_run("forgetting", "seed 1", "AAJR", kl=0.1, perplexity=2.0, right=90.0)]
    (report / "study.json").write_text(json.dumps(known))
    start(monkeypatch, tmp_path, "--claims", "forgetting")
    assert json.loads((report / "study.json").read_text()) == known and commands == []


def test_without_tuning_a_claim_says_what_it_leaves_out(tmp_path, monkeypatch, commands, capsys):
    start(monkeypatch, tmp_path, "--claims", "price")
    assert "price: not yet tuned, and left out: sft, adversarial, AAJR" in capsys.readouterr().out
    assert sum(command[0] == "train" for command in commands) == 2 * (1 + 3)


def test_agents_get_their_temperature_once_and_before_they_are_sampled_at_it(tmp_path, commands):
    cell = Cell(
        "own, seed 1", {"a": Agent("sft"), "b": Agent("sft", {"max_steps": 5})}, 1, 10, 8, ("--multiples", "1"), True
    )
    runs = cell.measure("calibration", tmp_path)
    assert [command[0] for command in commands] == ["train", "train", "calibrate", "calibrate", "evaluate"]
    assert "--own_temperature" in commands[-1] and [one["temperature"] for one in runs] == [0.5, 0.5]
    again = Cell("again, seed 1", cell.agents, 1, 10, 8, ("--multiples", "1"), True)
    again.measure("calibration", tmp_path)
    assert [command[0] for command in commands[5:]] == ["evaluate"]


def test_a_stronger_attack_also_knows_what_is_found_on_checkpoints(tmp_path, commands):
    cell = CLAIMS["stronger"].cells(FULL, FIRST)[0]
    runs = cell.measure("stronger", tmp_path)
    assert [one["agent"] for one in runs] == ["adversarial, dropout", "matched", "AAJR, dropout"]
    *trained, evaluated = commands
    assert len(trained) == 3  # the checkpoints are those of the first
    sources = evaluated[evaluated.index("--transfer_from") + 1 :]
    folder = evaluated[1].partition("=")[2]
    assert [part for part in sources if "checkpoint" in part] == [f"{folder}/checkpoint-{n}" for n in (110, 220)]
    assert cell.settings() != replace(cell, sources=()).settings()


def test_cells_that_run_at_once_train_a_common_agent_once(tmp_path, monkeypatch):
    ran = []

    def run_command(command, folder):
        ran.append(command)
        time.sleep(0.3)
        out = Path(command[command.index("--output_dir") + 1])
        out.mkdir(parents=True)
        (out / "train_results.json").write_text("{}")

    monkeypatch.setattr("shared.commands.run_command", run_command)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: Agent("sft").train(1, 10, tmp_path), range(2)))
    assert len(ran) == 1 and folders[0] == folders[1]


def test_a_training_with_a_number_that_is_not_finite_is_a_result_and_other_failures_end_the_study(
    tmp_path, monkeypatch
):
    def fails(command, folder):
        if "0.5" in command:
            (folder / "_nonfinite-3").mkdir(parents=True)
        sys.exit("error: failed")

    monkeypatch.setattr("shared.commands.run_command", fails)
    cell = Cell("plain, seed 1", {"AAJR @ 0.5": Agent("aajr", {"ascent_step_size": 0.5})}, 1, 10, 8)
    [one] = cell.measure("inner_loop", tmp_path)
    assert one["diverged"] and one["agent"] == "AAJR @ 0.5"
    with pytest.raises(SystemExit, match="failed"):
        Cell("plain, seed 1", {"AAJR": Agent("aajr")}, 1, 10, 8).measure("inner_loop", tmp_path)


def test_numbers_of_a_training_come_from_its_log(tmp_path):
    norms = [1.0, 2.0, 3.0, 10.0]
    logs = [{"step": i + 1, "grad_norm": norm, "aajr/monotone_fraction": 0.5} for i, norm in enumerate(norms)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    numbers = training_numbers(tmp_path)
    assert numbers["spike"] == 4.0 and numbers["gradient_norm"] == 4.0 and numbers["monotone_fraction"] == 0.5
    # Variance 12.5 over four norms.
    assert numbers["gradient_variation"] == pytest.approx(12.5**0.5 / 4)
    assert training_numbers(tmp_path / "nothing") == {}


def test_with_one_step_every_penalty_has_the_lambda_of_the_recipe():
    cell, harder = CLAIMS["one_step"].cells(FULL, FIRST)[:2]
    agents = cell.agents
    assert [source.checkpoint for source in harder.sources] == [110, 220]
    assert all(source.after(None) == agents["AAJR"] for source in harder.sources)
    lambdas = {agent.config().regularizer_lambda for name, agent in agents.items() if "adversarial" not in name}
    assert len(agents) == 5 and lambdas == {Agent("aajr").config().regularizer_lambda}
    assert {agent.config().ascent_steps for agent in agents.values()} == {1}


@pytest.mark.parametrize(("steps", "saved"), [(330, [110, 220]), (100, [34, 68]), (2, [1]), (1, [])])
def test_the_inner_loop_is_measured_at_checkpoints_that_every_training_saves(steps, saved):
    """It measures the agents of `robustness` and of `calibration`, which are then trained once."""
    preset = replace(FULL, steps=steps)
    inner = CLAIMS["inner_loop"].cells(preset, FIRST)[0].agents
    assert [agent.checkpoint for name, agent in inner.items() if name.startswith("AAJR @")] == [*saved, None]
    assert all(step % saved_every(steps) == 0 for step in saved)
    shared = {json.dumps(agent.fields, sort_keys=True) for agent in inner.values()}
    for claim in ("robustness", "calibration"):
        assert shared <= {
            json.dumps(agent.fields, sort_keys=True) for agent in CLAIMS[claim].cells(preset, FIRST)[0].agents.values()
        }
