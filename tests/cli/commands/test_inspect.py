"""`aajr inspect`: which tokens of an example are perturbed, and which are actions."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from aajr_hf import AAJRConfig
from aajr_hf.cli.commands.inspect import show
from aajr_hf.cli.main import main
from aajr_hf.environments import expert_rows
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.models.base_agent import train_tokenizer

ROW = expert_rows("congestion", 8, seed=0)[1]
RECIPE = ["--config", "recipes/congestion/aajr.yaml", "--environment_examples", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer and nothing else: no weights are needed."""
    folder = tmp_path_factory.mktemp("agent")
    train_tokenizer([ROW["prompt"][0]["content"], ROW["completion"][0]["content"]]).save_pretrained(folder)
    return str(folder)


def inspect(capsys, folder, *options):
    status = main(["inspect", *RECIPE, "--model_name_or_path", folder, *options])
    captured = capsys.readouterr()
    kinds = ("perturbed", "action", "neither", "both")
    lines = [line for line in captured.out.splitlines() if line.startswith(kinds)]
    return status, [tuple(line.split(maxsplit=1)) for line in lines], captured


def test_an_example_is_shown_as_training_sees_it(folder, capsys):
    before = {"observation": "neither", "prompt": "perturbed"}
    text, action = ROW["prompt"][0]["content"], ROW["completion"][0]["content"]
    for choice, markup in before.items():
        status, runs, captured = inspect(capsys, folder, "--example", "1", "--perturbed_tokens", choice)
        assert status == 0 and f"`perturbed_tokens`: {choice}" in captured.out
        assert runs[-1] == ("action", repr(f"{action}<|end|>"))
        said = [(kind, value) for kind, value in runs if text in value]
        assert [kind for kind, _ in said] == ["perturbed"]
        assert runs[0][0] == markup
        assert said[0][1] == (repr(text) if choice == "observation" else repr(f"<|user|>{text}<|end|><|assistant|>"))
    counts = captured.out.split(": ")[1].split(". ")[0]
    total = int(captured.out.split(", ")[1].split()[0])
    assert sum(int(part.split()[0]) for part in counts.split(", ")) == total


def test_a_recipe_without_an_adversary_perturbs_nothing(folder, capsys):
    status, runs, captured = inspect(capsys, folder, "--epsilon", "0", "--regularizer_lambda", "0")
    assert status == 0 and "no adversary" in captured.out
    assert [kind for kind, _ in runs] == ["neither", "action"]


def test_packed_recipes_show_one_example_and_nothing_is_written(folder, capsys, tmp_path):
    output = tmp_path / "run"
    status, runs, _ = inspect(capsys, folder, "--packing", "true", "--output_dir", str(output))
    assert status == 0 and len(runs) == 2 and not output.exists()


def test_on_a_terminal_the_kinds_have_colours():
    terminal = io.StringIO()
    tokenizer = train_tokenizer([ROW["prompt"][0]["content"]])
    inputs = encode_examples(tokenizer, [ROW], candidates=False)
    console = Console(file=terminal, force_terminal=True, width=120, color_system="standard")
    show(console, tokenizer, inputs, AAJRConfig("out", use_cpu=True, bf16=False), 0)
    legend, _, shown = terminal.getvalue().partition("\n\n")
    assert all(kind in legend for kind in ("perturbed", "action", "neither"))
    yellow, green = "\x1b[30;43m", "\x1b[30;42m"
    assert yellow in shown and green in shown
    assert shown.index(yellow) < shown.index("capacity") < shown.index(green) < shown.index("take")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--example", "8"], "`example` must be from 0 to 7; got 8."),
        (["--example", "-1"], "`example` must be from 0 to 7; got -1."),
        (["--perturbed_tokens", "tool"], "no perturbable token: give every example a tool message before an action"),
        (["--perturbed_tokens", "word"], "invalid choice: 'word'"),
        (["--max_length", "3"], "the first is example 0 of the train data), because with `max_length` = 3"),
        (["--max_length", "3", "--example", "5"], "the first is example 5 of the train data)"),
        (["--perturbed_tokens", "tool", "--example", "5"], "Example 5 has no perturbable token"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, options, message):
    status, _, captured = inspect(capsys, folder, *options)
    assert status == 2 and message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("error: ")


def test_an_example_is_called_by_its_number(folder, capsys, tmp_path, caplog):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]} for _ in range(4)]
    rows[2]["messages"][0]["name"] = "Ann"
    rows[3]["messages"][0]["mood"] = "glad"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model_name_or_path", folder, "--dataset_name", str(tmp_path / "rows.jsonl"), "--output_dir", "x"]
    assert main(["inspect", *options, "--assistant_only_loss", "true", "--example", "2"]) == 2
    assert "row 2 of the train data: `messages`[0] (user): the `name` 'Ann'" in capsys.readouterr().err
    assert main(["inspect", *options, "--assistant_only_loss", "true", "--example", "3"]) == 0
    assert "Nothing reads the field `mood` of messages (first in row 3 of the train data)" in caplog.text


def test_conversations_with_tools(folder, capsys, tmp_path):
    rows = tmp_path / "rows.jsonl"
    turns = [("user", "weigh it"), ("tool", "7 kg"), ("assistant", "heavy"), ("tool", "2 kg"), ("assistant", "light")]
    rows.write_text(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"dataset_name: {rows}\noutput_dir: x\nassistant_only_loss: true\nperturbed_tokens: tool\n")
    status = main(["inspect", "--config", str(recipe), "--model_name_or_path", folder])
    out = capsys.readouterr().out
    assert status == 0
    kinds = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith(("perturbed", "action"))]
    assert kinds == [
        ["perturbed", "'7 kg'"],
        ["action", "'heavy<|end|>'"],
        ["perturbed", "'2 kg'"],
        ["action", "'light<|end|>'"],
    ]


def test_what_is_cut_and_what_is_both_is_shown(folder, capsys):
    _, runs, captured = inspect(capsys, folder, "--perturbed_tokens", "all")
    counts = dict(reversed(part.split(maxsplit=1)) for part in captured.out.split(": ")[1].split(". ")[0].split(", "))
    total = int(captured.out.split(", ")[1].split()[0])
    assert counts["perturbed"] == str(total) and counts["neither"] == "0"
    assert counts["action"] == counts["of them both"] and {"both"} < {kind for kind, _ in runs} | {"perturbed"}
    status, runs, captured = inspect(capsys, folder, "--max_length", str(total - 2))
    assert status == 0 and f"`max_length` = {total - 2} cuts off 2 tokens, 2 of them action." in captured.out
    assert f"Example 0, {total - 2} tokens" in captured.out
