"""The study of the recipes of SmolLM2: its split of the data, and its page."""

import json

import smollm2_study
import yaml
from smollm2_study import page, split

from aajr_hf.cli.commands.evaluate_tool_calls import ON_CALLS


def test_every_row_is_trained_on_or_held_out_and_answers_follow_their_questions(tmp_path):
    data, ids = tmp_path / "data", [f"simple_{i}" for i in range(12)]
    data.mkdir()
    for name in ("X.json", "X.answers.json"):
        (data / name).write_text("\n".join(json.dumps({"id": i}) for i in ids))
    split(data, tmp_path / "work")
    found = {}
    for part in ("train", "test"):
        both = [(tmp_path / "work" / part / name).read_text().splitlines() for name in ("X.json", "X.answers.json")]
        assert both[0] == both[1]
        found[part] = [json.loads(line)["id"] for line in both[0]]
    assert sorted(found["train"] + found["test"]) == sorted(ids)
    assert found["test"] == ["simple_4", "simple_9"]


def agent(setting, seed, left):
    return {
        "task": "congestion",
        "setting": setting,
        "seed": seed,
        "examples": 100,
        "options": "--attacks nll",
        "nominal_success": 90.0,
        "sampled_success": 85.0,
        "worst_case_success": {"1": left},
        "sampled_worst_case_success": {"1": left - 5},
        "amplification": 300.0,
        "trust": [{"rule": "gradients do not vanish", "passed": left > 10, "detail": "9 of 16 have vanished"}],
        "train_seconds": 60.0,
    }


def test_the_page_shows_each_seed_and_all_seeds_of_what_is_compared():
    runs = [agent("sft", 0, 5.0) | {"task": "congestion-more-attacks", "options": "--attacks margin"}]
    with_all = page([run | {"seed": seed} for run in runs for seed in (1, 2, 3)]).splitlines()
    assert "| sft | 90.0 ± 0.0 | 5.0 ± 0.0 | 85.0 ± 0.0 | 0.0 ± 0.0 | 300.0 ± 0.0 | 60.0 ± 0.0 |" in with_all
    runs += [
        agent(name, seed, left + seed) for name, left in (("adversarial", 30.0), ("aajr", 40.0)) for seed in (0, 1)
    ]
    runs.append(
        {
            "task": "tool-calling",
            "setting": "sft",
            "seed": 0,
            "examples": 24,
            "options": "--attacks margin",
            "trust": [],
            "nominal_valid": 80.0,
            "nominal_exact": 70.0,
            "worst_case_valid": {"1": 60.0},
            "worst_case_exact": {"1": 50.0},
            "intervals": {"nominal_valid": [60.0, 90.0]},
            "train_seconds": 10.0,
        }
    )
    lines = page(runs).splitlines()
    for attack in ("nll", "margin"):
        assert f"`aajr evaluate --perturbed_tokens observation --attacks {attack}`" in lines
    assert [line for line in lines if line.startswith("| sft")] == [
        "| sft | 90.0 | 5.0 | 85.0 | 0.0 | 300.0 | 60.0 |",
        "| sft | 80.0 [60-90] | 60.0 | 70.0 | 50.0 | 10 |",
    ]
    assert sum(line.startswith("| aajr | 90.0 | 40.0 ") for line in lines) == 1  # the first seed
    assert sum(line.startswith("| aajr | 90.0 | 41.0 ") for line in lines) == 1  # the second
    assert sum(line.startswith("| aajr | 90.0 | 40.5 |") for line in lines) == 1  # both, too few for an interval
    assert smollm2_study.WITHIN not in page(runs)  # which says that nothing is left
    assert smollm2_study.WITHIN in page([agent("adversarial", 0, 0.0), agent("aajr", 0, 0.0)])
    doubts = [line for line in lines if line.startswith("- ")]
    assert doubts == ["- sft, seed 0: not *gradients do not vanish*: 9 of 16 have vanished."]
    assert "| aajr | 0.0 | 10.0 | 0.0 | 10.0 |" in lines  # less adversarial, paired by seed


def test_each_agent_that_calls_tools_is_attacked_by_itself_with_attacks_that_there_are(tmp_path, monkeypatch):
    asked, numbers = (
        {},
        ("examples", "trust", "nominal_valid", "nominal_exact", "worst_case_valid", "worst_case_exact", "intervals"),
    )

    def evaluate(output, agents, options):
        (name,) = agents
        asked[name] = options
        return {name: dict.fromkeys([*numbers, "train_seconds"], name)}

    monkeypatch.setattr(smollm2_study, "evaluate_once", evaluate)
    monkeypatch.setattr(smollm2_study, "train", lambda *_: None)
    (tmp_path / "data").mkdir()
    runs = smollm2_study.tool_calls(tmp_path, tmp_path / "data", tmp_path / "work", 2, jobs=2)
    recipes = ["sft", "adversarial", "aajr", "aajr-lora", "aajr-fast"]
    assert [(run["setting"], run["nominal_exact"]) for run in runs] == [(name, name) for name in recipes]
    assert sorted(asked) == sorted(recipes)
    attacks = asked["sft"][asked["sft"].index("--attacks") + 1 : asked["sft"].index("--multiples")]
    assert attacks and set(attacks) <= set(ON_CALLS)


def test_a_task_replaces_its_own_runs_and_keeps_those_of_other_tasks(tmp_path, monkeypatch):
    (tmp_path / "smollm2.json").write_text(
        json.dumps([agent("aajr", 0, 40.0), agent("aajr", 0, 1.0) | {"task": "congestion-variants"}])
    )
    monkeypatch.setattr(smollm2_study, "train", lambda *_: None)
    monkeypatch.setattr(smollm2_study, "evaluate_once", lambda *_: {})
    monkeypatch.setattr(smollm2_study, "runs_of", lambda numbers, seed: [agent("aajr-lora", seed, 30.0)])
    command = ["smollm2_study.py", "--model", "model", "--tasks", "congestion-variants"]
    monkeypatch.setattr("sys.argv", [*command, "--work", str(tmp_path), "--output", str(tmp_path)])
    smollm2_study.main()
    runs = json.loads((tmp_path / "smollm2.json").read_text())
    assert [(run["task"], run["setting"], run["worst_case_success"]["1"]) for run in runs] == [
        ("congestion", "aajr", 40.0),
        ("congestion-variants", "aajr-lora", 30.0),
    ]
    assert "The other recipes of congestion" in (tmp_path / "smollm2.md").read_text()


def test_seeds_can_be_measured_one_after_the_other_if_they_are_attacked_alike(tmp_path, monkeypatch):
    known = [agent("aajr", 3, 30.0), agent("aajr", 1, 10.0), agent("aajr", 5, 50.0) | {"examples": 16}]
    known = [run | {"options": smollm2_study._told("congestion")} for run in known]
    (tmp_path / "smollm2.json").write_text(json.dumps(known))
    monkeypatch.setattr(smollm2_study, "train", lambda *_: None)
    monkeypatch.setattr(smollm2_study, "evaluate_once", lambda *_: {})
    monkeypatch.setattr(smollm2_study, "runs_of", lambda numbers, seed: [agent("aajr", seed, 10.0 * seed + 1)])
    command = ["smollm2_study.py", "--model", "model", "--tasks", "congestion", "--seeds", "1", "2"]
    monkeypatch.setattr(
        "sys.argv", [*command, "--examples", "100", "--work", str(tmp_path), "--output", str(tmp_path)]
    )
    smollm2_study.main()
    runs = json.loads((tmp_path / "smollm2.json").read_text())
    assert [(run["seed"], run["worst_case_success"]["1"]) for run in runs] == [(1, 11.0), (2, 21.0), (3, 30.0)]


def test_no_agent_trains_on_what_its_base_has_learnt_and_all_are_attacked_in_the_same_tokens(tmp_path, monkeypatch):
    trained, attacked = [], {}
    monkeypatch.setattr(smollm2_study, "train", lambda task, recipe, folder, start, fields: trained.append(fields))
    monkeypatch.setattr(
        smollm2_study,
        "evaluate_once",
        lambda output, agents, options: attacked.update({output: (list(agents), options)}) or {},
    )
    smollm2_study.congestion("congestion", tmp_path, tmp_path, [1, 2], 4)
    base, *others = trained
    assert base == {} and [fields["environment_seed"] for fields in others] == [1, 1, 2, 2]
    smollm2_study.congestion("congestion-more-attacks", tmp_path, tmp_path, [1], 4)
    recipes = smollm2_study.RECIPES / "congestion"
    learnt = yaml.safe_load((recipes / "sft.yaml").read_text()).get("environment_seed", 0)
    threat = yaml.safe_load((recipes / "aajr.yaml").read_text())["perturbed_tokens"]
    assert learnt == 0 and len(attacked) == 3
    agents = [agents for agents, _ in attacked.values()]
    assert agents == [["adversarial", "aajr"], ["adversarial", "aajr"], ["adversarial", "aajr", "sft"]]
    for _, options in attacked.values():
        assert options[options.index("--perturbed_tokens") + 1] == threat
