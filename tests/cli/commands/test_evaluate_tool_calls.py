"""`aajr evaluate --dataset_name`: from a file of rows to a report and a model card, and what it refuses."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from aajr_hf.cli.commands.push import _add_evaluation
from aajr_hf.cli.main import main
from aajr_hf.evaluation.tool_calls import evaluate as tool_call_robustness
from aajr_hf.evaluation.tool_calls.evaluate import ON_CALLS
from aajr_hf.training.config.recipe import RECIPE
from aajr_hf.training.sharing.model_card import write_model_card
from aajr_hf.training.sharing.reading import trust_sentence
from aajr_hf.training.sharing.results import ToolCallResults
from tests.support.commands import fails
from tests.support.tool_callers import ROWS, caller
from tests.support.typed import mismatches

QUICK = ["--attack_steps", "2", "--attack_restarts", "1", "--multiples", "2", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools") / "caller"
    for part in caller():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "calls.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.mark.slow
def test_from_rows_to_a_report_and_a_model_card(folder, data, tmp_path, capsys):
    report = tmp_path / "report"
    assert main(["evaluate", f"mine={folder}", "--dataset_name", str(data), "--output", str(report), *QUICK]) == 0
    results = json.loads((report / "results.json").read_text())
    assert mismatches(results, ToolCallResults) == []
    run = results["runs"]["mine"]
    assert run["nominal_valid"] == run["nominal_exact"] == 100 and run["worst_case_exact"]["20"] < 50
    settings = results["settings"]
    assert (settings["dataset_name"], settings["examples"], settings["batch_size"]) == (str(data), len(ROWS), 16)
    assert results["version"] == 2 and results["threat_model"]["perturbed_tokens"] == "observation"
    assert [*run["attacks"], *run["text_attacks"]] == list(ON_CALLS) == settings["attacks"]
    for field in ("nominal_valid", "nominal_exact"):
        low, high = run["intervals"][field]
        assert low <= run[field] <= high and len(run["outcomes"][field]) == len(ROWS)
    for field in ("worst_case_valid", "worst_case_exact"):
        assert run[field].keys() == run["intervals"][field].keys() == run["outcomes"][field].keys() == {"2", "20"}
    assert run["trust"] and all(rule.keys() == {"rule", "passed", "detail"} for rule in run["trust"])
    printed, page = capsys.readouterr().out, (report / "report.html").read_text()
    sentence = trust_sentence(results)
    assert printed.startswith(sentence) and printed.count(sentence) == 1
    assert html.unescape(re.search(r"<li>(.*?)</li>", page, re.DOTALL)[1].strip()) == sentence
    assert "All attacks together" in printed and "All attacks together" in page
    assert "valid calls fall from 100% to" in printed and "unknown tool" in printed
    assert (report / "report.html").is_file() and (report / "tool_calls.png").is_file()

    (report / "worst_case.png").write_bytes(b"of an evaluation before")
    (folder / RECIPE).write_text(yaml.safe_dump({"model_name_or_path": "base", "dataset_name": str(data)}))
    _add_evaluation(folder, report)
    write_model_card(folder, "tester/caller")
    card = ModelCard((folder / "README.md").read_text())
    cells = []
    for share, interval in (
        (100, run["intervals"]["nominal_valid"]),
        (run["worst_case_valid"]["2"], run["intervals"]["worst_case_valid"]["2"]),
    ):
        cells.append(f"{share:.1f} [{interval[0]:.0f}-{interval[1]:.0f}]")
    assert f"| valid tool calls | {' | '.join(cells)} |" in card.text
    assert (
        "| exact, against attacks in words, too | 100.0" in card.text
        and "Left by each attack in words: trigger" in card.text
    )
    assert "(evaluation/tool_calls.png)" in card.text and "worst_case.png" not in card.text
    assert "Not evaluated yet" not in card.text
    snippet = card.text.split("```python\n")[1].split("```")[0]
    assert "apply_chat_template(observation, tools=tools, " in snippet and compile(snippet, "snippet", "exec")
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["exact tool calls (nominal) %"] == 100


@pytest.mark.slow
def test_as_many_rows_as_asked_for_are_drawn_by_the_seed(folder, data, tmp_path):
    def run(seed):
        output = tmp_path / f"report-{seed}"
        few = ["--examples", "2", "--attacks", "nll", "random", "--seed", str(seed), "--output", str(output), *QUICK]
        assert main(["evaluate", str(folder), "--dataset_name", str(data), *few]) == 0
        results = json.loads((output / "results.json").read_text())
        assert mismatches(results, ToolCallResults) == []
        return results["runs"]["caller"]

    first, again, other = run(0), run(0), run(1)
    assert first == again != other and first["examples"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_format", "bfcl"], "`--dataset_format` is only for tool calls: give `--dataset_name`, too."),
        (["--max_new_tokens", "9"], "`--max_new_tokens` is only for tool calls"),
        (["--dataset_name", "x.jsonl", "--env", "commons"], "`--env` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--surrogate"], "`--surrogate` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--own_temperature"], "`--own_temperature` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--transfer_from", "y"], "`--transfer_from` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--token_trials", "3"], "`--token_trials` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--budget", "3"], "`--budget` is only for worlds"),
        (["--dataset_name", "x.jsonl", "--attacks", "fgsm"], "`--attacks`: unknown attack 'fgsm'"),
        *(
            (
                ["--dataset_name", "x.jsonl", "--attacks", "nll", name],
                f"must be from {', '.join(ON_CALLS)}; got {name}.",
            )
            for name in ("cost", "transferred", "from_others", "token")
        ),
        (["--dataset_name", "x.jsonl", "--epsilon", "0"], "`--epsilon` must be above 0"),
        (["--dataset_name", "x.jsonl", "--max_new_tokens", "0"], "`--max_new_tokens` must be at least 1; got 0"),
        (["--dataset_name", "x.jsonl", "--batch_size", "0"], "`--batch_size` must be at least 1; got 0"),
        (["--dataset_name", "x.jsonl"], "`dataset_name`: there is no file or folder x.jsonl"),
        (["--skip_invalid_rows"], "`--skip_invalid_rows` is only for tool calls"),
        (["--dataset_config", "part"], "`--dataset_config` is only for tool calls"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "evaluate", "nowhere", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_row_that_cannot_be_used_is_named_before_a_model_is_loaded(data, tmp_path, capsys):
    with data.open("a") as file:
        file.write(json.dumps(ROWS[0] | {"tools": "[{}]"}) + "\n")
    asked = ["evaluate", "nowhere", "--dataset_name", str(data), "--output", str(tmp_path / "report")]
    message = fails(capsys, *asked)
    assert "1 of 5 rows are invalid: calls.jsonl line 5: `tools` has a schema without a `name`" in message
    # Without it, the model is what is wrong.
    assert "nowhere" in fails(capsys, *asked, "--skip_invalid_rows")


def test_rows_that_an_agent_was_trained_on_are_warned_of(data, tmp_path, capsys):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / RECIPE).write_text(yaml.safe_dump({"dataset_name": str(data)}))
    assert main(["evaluate", f"mine={tmp_path / 'agent'}", "--dataset_name", str(data)]) == 2  # it has no weights
    assert "warning: mine trained on these rows: the success will be too high." in capsys.readouterr().err


def test_parameters_that_are_no_schema_are_named(tmp_path, capsys):
    for number, (parameters, words) in enumerate(
        (({"$schema": ["a"]}, "`$schema` must be a string"), ({"type": 1}, "at type"))
    ):
        data = tmp_path / f"{number}.jsonl"
        tools = [{"type": "function", "function": {"name": "dim", "parameters": parameters}}]
        data.write_text(json.dumps(ROWS[0] | {"tools": json.dumps(tools)}) + "\n")
        message = fails(capsys, "evaluate", "nowhere", "--dataset_name", str(data))
        assert "Row 0: `tools`: the parameters of 'dim' are not a valid JSON Schema" in message and words in message


def test_a_part_of_a_dataset_is_asked_for_by_its_name(data, capsys):
    asked = ["evaluate", "nowhere", "--dataset_name", str(data), "--dataset_config", "part"]
    assert "`dataset_config` works only with datasets on the Hub, but" in fails(capsys, *asked)


def test_an_agent_that_calls_no_tools_is_refused_and_nothing_is_written(agent, data, tmp_path, capsys):
    report = tmp_path / "report"
    message = fails(capsys, "evaluate", f"base={agent}", "--dataset_name", str(data), "--output", str(report))
    assert "error: base: the calls that the chat template renders cannot be parsed" in message and not report.exists()


@pytest.mark.slow
def test_a_comparison_of_worlds_refuses_these_numbers(folder, data, tmp_path, capsys):
    report = tmp_path / "report"
    few = ["--examples", "1", "--attacks", "nll", "--attack_steps", "1", "--multiples", "1"]
    assert main(["evaluate", str(folder), "--dataset_name", str(data), "--output", str(report), *few]) == 0
    capsys.readouterr()
    runs = [f"a={folder}", f"b={folder}"]
    message = fails(capsys, "compare", *runs, "--evaluation", str(report), "--output", str(tmp_path / "out"))
    assert "tool calls" in message and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_threat_model_is_that_of_the_recipe_or_of_the_options(folder, data, tmp_path):
    """Also names that are no markup, and one attack of those that there are."""
    trained = tmp_path / "[bold]"
    shutil.copytree(folder, trained)
    recipe = {"epsilon": 0.5, "epsilon_mode": "absolute", "perturbation_norm": "linf", "perturbed_tokens": "prompt"}
    (trained / RECIPE).write_text(yaml.safe_dump(recipe))
    few = ["--examples", "1", "--attack_steps", "1", "--multiples", "1", "--attacks", "nll", "--exhaustive"]
    asked = ["evaluate", str(trained), "--dataset_name", str(data), *few]
    for options, changed in (
        ([], {}),
        (["--epsilon", "0.1", "--perturbed_tokens", "user"], {"perturbed_tokens": "user"}),
    ):
        report = tmp_path / f"report[{len(options)}]"
        assert main([*asked, *options, "--output", str(report)]) == 0
        results = json.loads((report / "results.json").read_text())
        changed |= {"epsilon": 0.1} if options else {}
        assert results["threat_model"] == recipe | {"perturbation_scope": "sequence"} | changed
        assert results["train_epsilon"] == results["threat_model"]["epsilon"]
        (attack,) = results["runs"]["[bold]"]["attacks"].values()
        assert attack["alone"].keys() == {"1"}


@pytest.mark.slow
def test_ctrl_c_while_measuring_leaves_what_is_done(folder, data, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    report = tmp_path / "report"
    few = [*QUICK, "--attacks", "nll"]
    command = ["evaluate", str(folder), "--dataset_name", str(data), "--output", str(report), *few]
    with monkeypatch.context() as patch:
        patch.setattr(tool_call_robustness, "measure_trust", interrupted)
        assert main(command) == 130
    assert "interrupted: finished batches are in" in capsys.readouterr().err
    assert [file.name for file in report.iterdir()] == ["unfinished"]
    monkeypatch.setattr(tool_call_robustness, "CallsUnderAttack", interrupted)
    assert main(command) == 0
    assert "Going on with" in capsys.readouterr().err and not (report / "unfinished").exists()
