"""Adapters on the command line: swapped over one recipe, TRL's own flags, merged, evaluated, measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LilyConfig, PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from aajr_hf.cli.main import main
from aajr_hf.training.sharing.results import RankResults
from aajr_hf.training.trainers.sft import AAJRTrainer
from tests.support import ROOT
from tests.support.commands import FAST, fails
from tests.support.typed import mismatches

RECIPE = str(ROOT / "recipes" / "congestion" / "aajr.yaml")


def train(agent, output, *more):
    where = ["--model_name_or_path", str(agent), "--output_dir", str(output)]
    return main(["train", "--config", RECIPE, *where, *FAST, *more])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "fields", "printed"),
    [
        (["--adapter", "lora", "--adapter_rank", "2"], {"r": 2, "lora_alpha": 4}, "2 of"),
        (["--adapter", "hira", "--adapter_rank", "4"], {"r": 4}, "Trained: hira"),
        (
            ["--adapter", "lora", "--adapter_options", '{"target_modules": ["q_proj"], "lora_alpha": 1}'],
            {"target_modules": {"q_proj"}, "r": 16, "lora_alpha": 1},
            "q_proj",
        ),
        (
            # TRL's default is a dropout of 0.05, which goes with the penalty of whole batches alone.
            [
                "--use_peft",
                "true",
                "--lora_r",
                "3",
                "--use_dora",
                "true",
                "--lora_target_modules",
                "q_proj",
                "v_proj",
                "--lora_dropout",
                "0",
            ],
            {"r": 3, "use_dora": True, "target_modules": {"q_proj", "v_proj"}},
            "Trained: dora",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_flag_swaps_the_adapter(agent, tmp_path, capsys, flags, fields, printed):
    assert train(agent, tmp_path / "run", *flags) == 0
    assert printed in capsys.readouterr().out
    config = PeftConfig.from_pretrained(tmp_path / "run")
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "lorra"], "invalid choice: 'lorra' (choose from"),
        (["--adapter", "lora", "--adapter_rank", "0"], "`adapter_rank` must be"),
        (["--adapter", "lora", "--adapter_rank", "100000"], "`adapter_rank` must be from 1 to"),
        (["--adapter", "lora", "--adapter_options", '{"target_modules": ["query"]}'], "it has down_proj"),
        (["--adapter", "lora", "--adapter_options", "{"], "adapter_options"),
        (["--adapter", "lora", "--use_peft", "true"], "`adapter` and TRL's `use_peft` are both set"),
        (["--lora_r", "4"], "`lora_r` belongs to TRL and needs `use_peft`"),
        (["--load_in_4bit", "true"], "`load_in_4bit` needs bitsandbytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_names_the_valid_choices(agent, tmp_path, capsys, flags, message):
    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run")]
    assert message in fails(capsys, "train", "--config", RECIPE, *where, *FAST, *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_adapter_is_evaluated_merged_and_measured(agent, tmp_path, capsys):
    adapter, merged = tmp_path / "lora", tmp_path / "merged"
    assert train(agent, adapter, "--adapter", "lora", "--adapter_rank", "2", "--learning_rate", "0.01") == 0
    assert main(["merge", str(adapter), str(merged)]) == 0
    assert f"Model saved to {merged}" in capsys.readouterr().out
    small = ["--examples", "8", "--attacks", "nll", "--attack_steps", "1", "--output", str(tmp_path / "report")]
    assert main(["evaluate", f"adapter={adapter}", f"merged={merged}", *small]) == 0
    runs = json.loads((tmp_path / "report" / "results.json").read_text())["runs"]
    for name in ("nominal_cost", "sampled_success", "amplification", "spectral_norm"):
        assert runs["adapter"][name] == pytest.approx(runs["merged"][name], rel=1e-3)

    output = ["--output", str(tmp_path / "rank"), "--examples", "8", "--batch_size", "4"]
    recipe = tmp_path / "launched.yaml"  # on how many processes it was trained does not matter here
    recipe.write_text(Path(RECIPE).read_text() + "accelerate_config: ddp\nnum_processes: 2\n")
    assert main(["adapter-rank", "--model", str(adapter), "--config", str(recipe), *output]) == 0
    assert "covers 95%" in capsys.readouterr().out
    result = json.loads((tmp_path / "rank" / "rank.json").read_text())
    assert mismatches(result, RankResults) == []
    assert result["base"] == str(agent) and (tmp_path / "rank" / "rank.png").is_file()
    # A LoRA of rank 2 has changed every linear layer by a matrix of rank 2.
    assert len(result["update"]) == len(result["penalty_gradient"])
    assert all(update["coverage"]["2"] == pytest.approx(1, abs=1e-6) for update in result["update"].values())


@pytest.mark.slow
def test_a_measurement_has_no_effect_but_its_files(agent, tmp_path, capsys, monkeypatch):
    """Whatever the recipe asks of a training: an upload, evaluations, an adapter of some kind."""
    uploads = []
    monkeypatch.setattr(AAJRTrainer, "init_hf_repo", lambda *args, **kwargs: uploads.append(args))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        Path(RECIPE).read_text()
        + "push_to_hub: true\neval_strategy: steps\nload_best_model_at_end: true\n"
        + "adapter: lora\nadapter_options: {lora_alpha: 1}\n"
    )
    output = ["--output", str(tmp_path / "rank"), "--examples", "4", "--batch_size", "4"]
    where = ["--config", str(recipe), "--model_name_or_path", str(agent), "--use_cpu", "true"]
    assert main(["adapter-rank", "--model", str(agent), *where, *output]) == 0
    assert uploads == [] and {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "rank"}
    assert main(["inspect", *where]) == 0


@pytest.mark.slow
def test_plain_text_in_a_column_of_another_name_is_measured(agent, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"said": f"need {i} units of the link now"}) + "\n" for i in range(4)))
    recipe = tmp_path / "recipe.yaml"
    text = {"dataset_name": str(rows), "dataset_text_field": "said", "dataset_test_split": "train"}
    adversary = {"regularizer": "aajr", "epsilon": 0.1, "perturbed_tokens": "all", "use_cpu": True}
    recipe.write_text(json.dumps(text | adversary))
    output = ["--output", str(tmp_path / "rank"), "--examples", "4", "--batch_size", "4"]
    assert main(["adapter-rank", "--model", str(agent), "--config", str(recipe), *output]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "nowhere", "out"], "no adapter in nowhere"),
        (["adapter-rank", "--config", RECIPE], "`model` is missing"),
        (["adapter-rank", "--model", "nowhere", "--config", RECIPE], "nowhere"),
        (
            ["adapter-rank", "--model", "nowhere", "--config", RECIPE, "--examples", "0"],
            "`examples` must be at least 1",
        ),
        (["adapter-rank", "--model", "nowhere", "--config", RECIPE, "--epsilon", "0"], "`epsilon` above 0"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else value,
)
def test_nothing_is_written_where_something_is_missing(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_merged_model_is_not_overwritten(agent, tmp_path, capsys):
    adapter = tmp_path / "lora"
    assert train(agent, adapter, "--adapter", "lora", "--adapter_rank", "2") == 0
    assert "already exists" in fails(capsys, "merge", str(adapter), str(tmp_path))


@pytest.mark.slow
def test_an_adapter_that_cannot_be_merged_is_evaluated_as_it_is(agent, tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained(agent)
    folder = tmp_path / "lily"
    lily = LilyConfig(r=2, stride_A=1, num_B=2, target_modules=["q_proj"], init_weights=False, scaling=20)
    get_peft_model(model, lily).save_pretrained(folder)
    AutoTokenizer.from_pretrained(agent).save_pretrained(folder)
    small = ["--examples", "8", "--attacks", "nll", "--attack_steps", "1", "--output", str(tmp_path / "report")]
    assert main(["evaluate", f"base={agent}", f"lily={folder}", *small]) == 0
    runs = json.loads((tmp_path / "report" / "results.json").read_text())["runs"]
    assert runs["lily"]["amplification"] != pytest.approx(runs["base"]["amplification"], rel=1e-3)
    capsys.readouterr()
    assert "cannot be merged" in fails(capsys, "merge", str(folder), str(tmp_path / "merged"))
    assert "cannot be merged" in fails(capsys, "adapter-rank", "--model", str(folder), "--config", RECIPE)


def test_one_layer_of_use_peft_is_a_name_as_several_are():
    from aajr_hf.cli.arguments.model_and_data import TrainArguments
    from aajr_hf.cli.arguments.train_checks import lora_of

    for wanted, found in ((["q_proj"], {"q_proj"}), (["q_proj", "v_proj"], {"q_proj", "v_proj"})):
        assert set(lora_of(TrainArguments(use_peft=True, lora_target_modules=wanted)).target_modules) == found
    for pattern in ("all-linear", r".*q_proj"):
        assert lora_of(TrainArguments(use_peft=True, lora_target_modules=[pattern])).target_modules == pattern
