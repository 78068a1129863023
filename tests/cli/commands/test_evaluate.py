"""`aajr evaluate`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from peft import LilyConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.commands import adapter_rank
from aajr_hf.cli.commands import evaluate as evaluate_command
from aajr_hf.cli.main import main
from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks import surrogate
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.robustness import evaluate as robustness
from aajr_hf.training.models.base_agent import small_llama, train_tokenizer
from aajr_hf.training.models.loading import load_tokenizer
from aajr_hf.training.sharing.reading import RESULTS_VERSION, trust_sentence
from aajr_hf.training.sharing.results import RobustnessResults
from tests.support import ROOT
from tests.support.commands import FAST, fails
from tests.support.typed import mismatches

SMALL = ["--examples", "5", "--batch_size", "3", "--attack_steps", "2", "--attack_restarts", "1"]
RADII = {"0.5", "1", "1.5"}
FEW = ["--attacks", "nll", "transferred", "from_others"]


def untrained(folder, world, *, width=128, says=True):
    """The folder of an agent with random weights and a tokenizer of a world; its configuration may say which."""
    rows = expert_rows(world, 100, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    model = small_llama(tokenizer, seed=0)
    if width != model.config.hidden_size:
        model.config.hidden_size, model.config.head_dim = width, width // model.config.num_attention_heads
        model = type(model)(model.config)
    if says:
        model.config.aajr_environment = world
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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


@pytest.fixture
def copied(agent, tmp_path):
    """An agent whose folder can be damaged."""
    return shutil.copytree(agent, tmp_path / "copied")


@pytest.fixture
def unmeasured(monkeypatch):
    """Nothing is measured: a mistake is found before."""
    monkeypatch.setattr(
        "aajr_hf.evaluation.robustness.evaluate.evaluate_agents", lambda *_, **__: pytest.fail("measured")
    )


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


def with_recipe(agent, folder, **fields):
    """A copy of an agent with this recipe beside it."""
    shutil.copytree(agent, folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model_name_or_path": "base"} | fields))
    return str(folder)


@pytest.fixture
def threat(monkeypatch):
    """`threat(arguments...)`: the threat model with which the command would measure."""
    found = []

    def unmeasured(models, arguments, world):
        found.append(evaluate_command.settings_of(arguments, models.values()).threat)

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate_command, "evaluate", unmeasured)
            assert main(["evaluate", *map(str, arguments)]) == 0
        return found[-1]

    return run


TRAINED = {"epsilon": 0.5, "epsilon_mode": "absolute", "perturbation_norm": "linf", "perturbation_scope": "token"}


def test_the_threat_model_is_that_of_the_recipes(agent, tmp_path, threat):
    one = with_recipe(agent, tmp_path / "one", **TRAINED, perturbed_tokens="observation")
    two = with_recipe(agent, tmp_path / "two", **TRAINED, perturbed_tokens="observation", learning_rate=0.1)
    trained = ThreatModel(0.5, "absolute", "linf", "token", "observation")
    assert threat(one) == trained
    # A base agent says nothing, and neither does one that was trained without an adversary.
    sft = with_recipe(agent, tmp_path / "sft", epsilon=0.0, regularizer_lambda=0.0, perturbed_tokens="all")
    assert threat(agent, one, two, sft) == trained
    assert threat(sft) == ThreatModel()
    # A recipe's field that is not there has the trainer's default, and is as good as one that is.
    wide = with_recipe(agent, tmp_path / "wide", epsilon=0.75)
    assert threat(wide) == ThreatModel(epsilon=0.75)
    options = ["--epsilon", "0.1", "--perturbation_norm", "l2", "--perturbed_tokens", "user"]
    assert threat(one, *options) == ThreatModel(0.1, "absolute", "l2", "token", "user")
    # GRPO's own epsilon is another one.
    grpo = with_recipe(agent, tmp_path / "grpo", trainer="AAJRGRPOTrainer", epsilon=0.2, perturbation_epsilon=0.3)
    assert threat(grpo) == ThreatModel(epsilon=0.3)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("epsilon", 0.5, "0.25 ({one}), 0.5 ({two})"),
        ("epsilon_mode", "absolute", "relative ({one}), absolute ({two})"),
        ("perturbation_norm", "linf", "l2 ({one}), linf ({two})"),
        ("perturbation_scope", "token", "sequence ({one}), token ({two})"),
        ("perturbed_tokens", "observation", "prompt ({one}), observation ({two})"),
    ],
)
def test_recipes_that_disagree_are_refused_by_field(field, value, shown, agent, tmp_path, refused, threat):
    one = with_recipe(agent, tmp_path / "one", epsilon=0.25)
    two = with_recipe(agent, tmp_path / "two", **{"epsilon": 0.25, field: value})
    message = refused("evaluate", one, two)
    assert f"`{field}`: the agents were trained against different adversaries" in message
    assert shown.format(one=one, two=two) in message and f"with `--{field}`" in message
    assert getattr(threat(one, two, f"--{field}", value), field) == value


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("epsilon: wide", "`epsilon` must be a finite number of at least 0; got 'wide'"),
        ("epsilon: .inf", "`epsilon` must be a finite number of at least 0; got inf"),
        ("epsilon: [1]", "`epsilon` must be a finite number of at least 0; got [1]"),
        ("epsilon: -1", "`epsilon` must be a finite number of at least 0; got -1"),
        ("perturbation_norm: l3", "`perturbation_norm` must be one of l2, linf; got 'l3'"),
        ("perturbed_tokens: [prompt]", "`perturbed_tokens` must be one of prompt, observation"),
        ("epsilon: [", "cannot be read"),
        ("- 1", "is not a mapping"),
    ],
)
def test_a_recipe_without_a_threat_model_in_it_is_one_line(recipe, message, copied, unmeasured, refused):
    (copied / "recipe.yaml").write_text(recipe + "\n")
    error = refused("evaluate", copied)
    assert "copied/recipe.yaml" in error and message in error


@pytest.mark.slow
def test_the_tokens_of_the_recipe_are_the_ones_that_move(agent, tmp_path, monkeypatch, capsys):
    moved = []
    target = robustness.Target

    def watched(model, batch, threat):
        moved.append((threat.perturbed_tokens, batch.perturbable.sum().item()))
        return target(model, batch, threat)

    monkeypatch.setattr(robustness, "Target", watched)
    counts = {}
    for tokens in ("prompt", "observation", "all"):
        folder = with_recipe(agent, tmp_path / tokens, perturbed_tokens=tokens)
        moved.clear()
        output = ["--attacks", "nll", "--multiples", "1", "--output", str(tmp_path / "report")]
        assert main(["evaluate", folder, *SMALL, *output]) == 0
        recorded = json.loads((tmp_path / "report" / "results.json").read_text())["threat_model"]
        assert {said for said, _ in moved} == {tokens} == {recorded["perturbed_tokens"]}
        counts[tokens] = sum(number for _, number in moved)
    assert 0 < counts["observation"] < counts["prompt"] < counts["all"]
    # What no observation of a world has.
    folder = with_recipe(agent, tmp_path / "tool", perturbed_tokens="tool")
    capsys.readouterr()
    output = ["--surrogate", "--output", str(tmp_path / "none")]
    message = fails(capsys, "evaluate", f"mine={folder}", *SMALL, *output)
    assert "mine: Example 0 has no perturbable token" in message and "set `perturbed_tokens` to prompt" in message
    assert not (tmp_path / "none").exists()


SYSTEM = "You are one of several agents.\nBe brief."


@pytest.fixture
def prompt(tmp_path):
    """A file with a system prompt."""
    (tmp_path / "prompt.txt").write_text(f"{SYSTEM}\n")
    return str(tmp_path / "prompt.txt")


@pytest.fixture
def measured(monkeypatch, capsys):
    """`measured(arguments...)`: the rows on which the command would measure."""
    found = []

    def unmeasured(agents, rows, *_, **__):
        found.append(rows)
        raise ValueError("not measured")

    monkeypatch.setattr(robustness, "evaluate_agents", unmeasured)

    def run(*arguments):
        assert main(["evaluate", *map(str, arguments), *SMALL]) == 2
        assert "error: not measured" in capsys.readouterr().err
        return found[-1]

    return run


def test_a_system_prompt_stands_before_every_observation_as_in_the_recipe_or_as_asked(
    agent, tmp_path, prompt, measured
):
    trained = with_recipe(agent, tmp_path / "trained", environment="congestion", system_prompt=prompt)
    plain = measured(agent)
    led = [row | {"prompt": [{"role": "system", "content": SYSTEM}, *row["prompt"]]} for row in plain]
    assert measured(agent, "--system_prompt", prompt) == measured(trained) == measured(agent, trained) == led
    assert measured(trained, "--system_prompt", "") == plain
    (tmp_path / "other.txt").write_text("Else.")
    other = measured(trained, "--system_prompt", tmp_path / "other.txt")
    assert {row["prompt"][0]["content"] for row in other} == {"Else."}


@pytest.mark.slow
def test_an_agent_is_measured_with_the_system_prompt_that_it_was_trained_with(agent, tmp_path, prompt, measured):
    recipe, run = ["--config", str(ROOT / "recipes" / "congestion" / "sft.yaml"), *FAST], tmp_path / "run"
    where = ["--model_name_or_path", str(agent), "--output_dir", str(run)]
    assert main(["train", *recipe, *where, "--bf16", "false", "--system_prompt", prompt]) == 0
    assert yaml.safe_load((run / "recipe.yaml").read_text())["system_prompt"] == prompt
    assert {row["prompt"][0]["content"] for row in measured(run)} == {SYSTEM}


def test_the_rank_of_an_adapter_is_measured_with_the_system_prompt(prompt):
    rows = adapter_rank._held_out(3, TrainArguments(environment="congestion", system_prompt=prompt), "text")
    assert [row["prompt"][0] for row in rows] == [{"role": "system", "content": SYSTEM}] * 3


@pytest.mark.slow
def test_a_surrogate_learns_from_rows_with_the_system_prompt(agent, tmp_path, prompt, brief, monkeypatch, measured):
    seen = []
    monkeypatch.setattr(
        surrogate,
        "make_surrogate",
        lambda model, tokenizer, rows, *_: (
            seen.append({row["prompt"][0]["content"] for row in rows}) or (model, tokenizer)
        ),
    )
    measured(agent, "--system_prompt", prompt, "--surrogate", "--output", tmp_path / "report")
    assert seen == [{SYSTEM}]


@pytest.mark.slow
def test_the_system_prompt_is_recorded_and_an_agent_that_answers_nothing_is_called_so(agent, tmp_path, prompt, capsys):
    report = tmp_path / "report"
    asked = [
        "--system_prompt",
        prompt,
        "--perturbed_tokens",
        "observation",
        "--attacks",
        "nll",
        "--output",
        str(report),
    ]
    assert main(["evaluate", f"mine={agent}", *SMALL, *asked]) == 0
    results, printed = json.loads((report / "results.json").read_text()), capsys.readouterr().out
    assert mismatches(results, RobustnessResults) == [] and results["settings"]["system_prompt"] == SYSTEM
    page = html.unescape((report / "report.html").read_text())
    assert f'<th scope="row">system_prompt</th><td>{SYSTEM}</td>' in page
    lost = "mine answers almost no observation correctly, even without attack (0.0%), so its success under attack says"
    assert printed.startswith(lost) and re.search(r"<li>(.*?)</li>", page, re.DOTALL)[1].strip().startswith(lost)
    assert "Most robust" not in printed and trust_sentence(results).startswith(lost)


def deaf(agent, folder, template):
    """A copy of an agent with another chat template."""
    shutil.copytree(agent, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.mark.slow
def test_a_system_prompt_that_cannot_be_used_is_one_line(agent, tmp_path, prompt, unmeasured, refused):
    body = "{%- for m in messages if m.role != 'system' -%}<|{{ m.role }}|>{{ m.content }}<|end|>{%- endfor -%}"
    left_out = deaf(agent, tmp_path / "left_out", body)
    raising = "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
    refusing = deaf(agent, tmp_path / "refusing", raising + body)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    for command in (["evaluate"], ["simulate", "--env", "congestion", "--model"]):
        for name, message in (
            ("empty", "`--system_prompt`: empty.txt is empty"),
            ("latin", "`--system_prompt`: latin.txt is not UTF-8 text"),
            ("gone", "`--system_prompt`: gone.txt cannot be read (No such file or directory)"),
        ):
            assert message in refused(*command, agent, "--system_prompt", f"{name}.txt")
        assert "The chat template leaves out system messages" in refused(*command, left_out, "--system_prompt", prompt)
        message = refused(*command, refusing, "--system_prompt", prompt)
        assert "The chat template refuses system messages (System role not supported)" in message
    message = refused("evaluate", f"mine={agent}", f"theirs={left_out}", "--system_prompt", prompt)
    assert message.startswith("error: theirs: The chat template leaves out")
    message = refused("evaluate", agent, "--dataset_name", "rows.jsonl", "--system_prompt", prompt)
    assert "`--system_prompt` is only for worlds: leave out this option or `--dataset_name`" in message
    message = refused("simulate", "--model", "scripted", "--system_prompt", prompt)
    assert "`--system_prompt` has no effect on scripted experts" in message
    trained = with_recipe(agent, tmp_path / "trained", environment="congestion", system_prompt=prompt)
    plain = with_recipe(agent, tmp_path / "plain", environment="congestion")
    for command in (["evaluate", trained, plain], ["simulate", "--model", trained, "--opponent", plain]):
        assert "were trained with different system prompts" in refused(*command)
    recipe = ["--config", ROOT / "recipes" / "congestion" / "sft.yaml", "--use_cpu", "true", "--bf16", "false"]
    recipe += ["--output_dir", "trained", "--environment_examples", "8", "--max_steps", "1"]
    for model, file, message in (
        (agent, "latin.txt", "`system_prompt`: latin.txt is not UTF-8 text"),
        (left_out, prompt, "(system): the `content`"),
        (refusing, prompt, "System role not supported"),
    ):
        given = ["--model_name_or_path", model, "--system_prompt", file, "--output_dir", tmp_path / "run"]
        assert message in refused("train", *recipe, *given)


@pytest.fixture
def brief(monkeypatch):
    """Surrogates of two steps."""
    monkeypatch.setattr(surrogate, "STEPS", 2)
    monkeypatch.setattr("aajr_hf.cli.commands.evaluate.EXAMPLES", 64)


@pytest.mark.slow
def test_a_surrogate_is_kept_recorded_and_can_be_loaded(agent, tmp_path, brief, capsys):
    report = tmp_path / "report"
    wide = untrained(tmp_path / "wide", "congestion", width=64)
    few = [*SMALL, *FEW, "--multiples", "1"]
    output = ["--surrogate", "--output", str(report)]
    assert main(["evaluate", f"mine={agent}", f"small={wide}", *few, *output]) == 0
    printed = capsys.readouterr()
    results = json.loads((report / "results.json").read_text())
    assert results["settings"]["transfer_from"] == ["surrogate of mine", "surrogate of small"]
    for name, path in (("mine", agent), ("small", wide)):
        run, folder = results["runs"][name], report / "surrogates" / name
        assert run["transferred_from"] == [f"surrogate of {name}"] and "from_others" in run["attacks"]
        (model, _), (original, _) = load_agent(str(folder)), load_agent(str(path))
        # Its perturbations are of the agent's own embeddings, and the rest is not the agent's.
        assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
        assert not torch.equal(model.lm_head.weight, original.lm_head.weight)
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert (recipe["output_dir"], recipe["model_name_or_path"]) == (str(folder), str(path))
        assert f"Making a surrogate of {name} in {folder}" in printed.err
    assert sorted(path.name for path in (report / "surrogates").iterdir()) == ["mine", "small"]
    # No word of the training itself.
    assert "loss" not in printed.err and "'train_runtime'" not in printed.out and "Map" not in printed.err
    # Another time it is replaced, and is a source like any other.
    before = (report / "surrogates" / "mine" / "model.safetensors").stat().st_ino
    assert main(["evaluate", f"mine={agent}", *few, *output]) == 0
    assert (report / "surrogates" / "mine" / "model.safetensors").stat().st_ino != before
    source = str(report / "surrogates" / "mine")
    assert main(["evaluate", str(agent), *few, "--transfer_from", source, "--output", str(tmp_path / "next")]) == 0
    run = json.loads((tmp_path / "next" / "results.json").read_text())["runs"]["base"]
    assert run["transferred_from"] == [source]


@pytest.mark.slow
def test_the_surrogate_of_an_adapter_that_cannot_be_merged_is_saved_whole(agent, tmp_path, brief):
    folder = tmp_path / "lily"
    lily = LilyConfig(r=2, stride_A=1, num_B=2, target_modules=["q_proj"], init_weights=False, scaling=20)
    get_peft_model(AutoModelForCausalLM.from_pretrained(agent), lily).save_pretrained(folder)
    AutoTokenizer.from_pretrained(agent).save_pretrained(folder)
    original = load_agent(str(folder))
    threat = ThreatModel(0.1, "absolute", "linf", "token", "observation")
    rows = expert_rows("congestion", 64, seed=0)
    made, tokenizer = surrogate.make_surrogate(*original, rows, threat, tmp_path / "surrogate")
    loaded, _ = load_agent(str(tmp_path / "surrogate"))
    ids = tokenizer("capacity 3", return_tensors="pt").input_ids
    logits = [model(ids).logits for model in (made, loaded, original[0])]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert not any(parameter.requires_grad for parameter in original[0].parameters())


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_a_surrogate_that_is_not_finished_is_not_there(error, agent, tmp_path, brief, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["evaluate", f"mine={agent}", *SMALL, "--surrogate", "--output", "new/report"]

    def fail(self, *_, **__):
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(self.args.output_dir) / "config.json").write_text("{}")
        raise error("broken")

    with monkeypatch.context() as patch:
        patch.setattr(surrogate.AAJRTrainer, "save_final", fail)
        assert main(asked) == {KeyboardInterrupt: 130, FloatingPointError: 1}[error]
        assert "Traceback" not in (printed := capsys.readouterr().err)
        if error is FloatingPointError:
            assert "the training of the surrogate of mine diverges: leave `--surrogate` out." in printed
        assert not list(tmp_path.iterdir())
        # What was there before stays.
        old = Path("new/report/surrogates/mine")
        old.mkdir(parents=True)
        (old / "config.json").write_text("before")
        assert main(asked) != 0
        assert [path.name for path in old.parent.iterdir()] == ["mine"]
        assert (old / "config.json").read_text() == "before"


def test_a_surrogate_replaces_no_model_and_stays_in_its_folder(agent, tmp_path, refused):
    place = tmp_path / "report" / "surrogates" / "mine"
    shutil.copytree(agent, place)
    asked = ["--surrogate", "--output", tmp_path / "report"]
    assert "`--surrogate` would replace" in refused("evaluate", place, *asked)
    assert "`--surrogate` would replace" in refused("evaluate", f"mine={agent}", "--transfer_from", place, *asked)
    for name in ("../mine", "a/b", "..", ""):
        assert f"`--surrogate`: {name!r} is not a valid folder name" in refused("evaluate", f"{name}={agent}", *asked)


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
    assert "interrupted" in capsys.readouterr().err and not list(tmp_path.iterdir())
    # Earlier results stay as they are.
    Path("report").mkdir()
    Path("report/results.json").write_text("before")
    calls.clear()
    assert main(["evaluate", str(agent), *SMALL, "--output", "report"]) == 130
    assert [path.name for path in Path("report").iterdir()] == ["results.json"]
    assert Path("report/results.json").read_text() == "before"
