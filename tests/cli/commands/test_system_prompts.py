"""`aajr evaluate`, `compare` and surrogates with a system prompt."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest
import yaml

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.commands import adapter_rank
from aajr_hf.cli.main import main
from aajr_hf.evaluation.attacks import surrogate
from aajr_hf.evaluation.robustness import evaluate as robustness
from aajr_hf.training.sharing.reading import trust_sentence
from aajr_hf.training.sharing.results import RobustnessResults
from tests.support import ROOT
from tests.support.commands import FAST, SMALL, with_recipe
from tests.support.typed import mismatches

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
