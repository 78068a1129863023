"""What users get wrong: one line that says what and what to do, exit status 2, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from aajr_hf.cli.main import main
from tests.support import ROOT

RECIPE = ROOT / "recipes" / "congestion" / "aajr.yaml"
ROW = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines)


# What a recipe holds, in place of what the recipe of the world holds or beside it, and what the error says.
VALUES = [
    ({"epsilonn": 0.1}, "did you mean `epsilon`?"),
    ({"learning-rate": 0.1}, "did you mean `learning_rate`?"),
    ({"zzz": 1}, "unknown key"),
    ({"epsilon": "wide"}, "epsilon"),
    ({"epsilon": [1]}, "epsilon"),
    ({"epsilon": {"a": 1}}, "epsilon"),
    ({"epsilon": None}, "epsilon"),
    ({"epsilon": -0.1}, "`epsilon`"),
    ({"epsilon": float("nan")}, "`epsilon`"),
    ({"epsilon": float("inf")}, "`epsilon`"),
    ({"epsilon": True}, "`epsilon`"),
    ({"epsilon_mode": "sideways"}, "epsilon_mode"),
    ({"perturbation_norm": "l3"}, "perturbation_norm"),
    ({"perturbed_tokens": "some"}, "perturbed_tokens"),
    ({"ascent_steps": 1.5}, "ascent_steps"),
    ({"ascent_steps": 0}, "`ascent_steps`"),
    ({"ascent_step_size": "tiny"}, "`ascent_step_size`"),
    ({"ascent_step_size": 0}, "`ascent_step_size`"),
    ({"ascent_step_size": "auto"}, "`ascent_step_rule`"),
    ({"regularizer": "magic"}, "regularizer"),
    ({"regularizer_lambda": -1}, "`regularizer_lambda`"),
    ({"regularizer_lambda": "1,5"}, "regularizer_lambda"),
    ({"amplification_budget": -1}, "`amplification_budget`"),
    ({"amplification_budget": 1, "regularizer": "global_frobenius"}, "`amplification_budget`"),
    ({"penalty_fraction": 0}, "`penalty_fraction`"),
    ({"penalty_fraction": 2}, "`penalty_fraction`"),
    ({"penalty_interval": 0}, "`penalty_interval`"),
    ({"regularizer": "global_spectral", "per_device_train_batch_size": 1}, "`per_device_train_batch_size`"),
    ({"regularizer": "global_frobenius", "penalty_fraction": 0.01}, "`penalty_fraction`"),
    ({"neftune_noise_alpha": 5}, "`neftune_noise_alpha`"),
    ({"jacobian_estimator": "guess"}, "jacobian_estimator"),
    ({"aajr_warmup_ratio": 2}, "`aajr_warmup_ratio`"),
    ({"clean_loss_weight": "nan"}, "`clean_loss_weight`"),
    ({"system_loss": "joy"}, "system_loss"),
    ({"on_nonfinite": "ignore"}, "on_nonfinite"),
    ({"packing": True, "packing_strategy": "wrapped"}, "`packing_strategy`"),
    ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor`"),
    ({"adapter": "lorra"}, "adapter"),
    ({"adapter": "lora", "adapter_rank": 0}, "`adapter_rank`"),
    ({"adapter": "lora", "adapter_rank": 10**6}, "`adapter_rank`"),
    ({"adapter": "lora", "adapter_options": [1]}, "adapter_options"),
    ({"adapter": "lora", "adapter_options": {"alpha": 1}}, "`adapter_options`"),
    ({"adapter": "lora", "use_peft": True}, "`use_peft`"),
    ({"lora_r": 4}, "`use_peft`"),
    ({"load_in_4bit": True}, "bitsandbytes"),
    ({"environment": "mars"}, "environment"),
    ({"environment": None}, "`environment` or `dataset_name`"),
    ({"dataset_name": "x.jsonl"}, "`environment` or `dataset_name`"),
    ({"environment_examples": 0}, "environment_examples"),
    ({"environment_examples": -5}, "environment_examples"),
    ({"environment_examples": "many"}, "environment_examples"),
    ({"environment_seed": -1}, "`environment_seed` must be from 0"),
    ({"seed": 2**32}, "`seed` must be from 0"),
    ({"data_seed": 10**20}, "`data_seed` must be from 0"),
    ({"max_steps": "ten"}, "max_steps"),
    ({"learning_rate": "fast"}, "learning_rate"),
    ({"learning_rate": -1.0}, "learning_rate"),
    ({"per_device_train_batch_size": 0}, "batch_size"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
    ({"lr_scheduler_type": "zigzag"}, "zigzag"),
    ({"optim": "magic"}, "magic"),
    ({"save_strategy": "sometimes"}, "sometimes"),
    ({"hub_strategy": "often"}, "often"),
    ({"bf16": True, "fp16": True}, "fp16"),
    ({"bf16": "perhaps"}, "bf16"),
    ({"report_to": "nowhere"}, "nowhere"),
    ({"model_name_or_path": None}, "`model_name_or_path`"),
    ({"model_name_or_path": "no/such/model"}, "no/such/model"),
    ({"model_init_kwargs": "x"}, "model_init_kwargs"),
    ({"attn_implementation": "telepathy"}, "telepathy"),
    ({"attn_implementation": "flash_attention_2"}, "`attn_implementation` flash_attention_2 needs a GPU"),
    ({"dtype": "float7"}, "float7"),
    ({"max_length": 1}, "max_length"),
    ({"output_dir": ""}, "`output_dir`"),
    ({"resume_from_checkpoint": "nowhere"}, "`resume_from_checkpoint`"),
    ({"accelerate_config": "nowhere"}, "nowhere"),
    ({"dataset_train_split": "treno"}, "`dataset_train_split`"),
    ({"env": "hello"}, "`env` must be a mapping"),
    ({"env": {"A=B": "x"}}, "`env` must be a mapping"),
    ({"accelerate_config": 5}, "`accelerate_config`"),
    ({"push_to_hub": True, "hub_model_id": "../../../etc"}, "hub_model_id"),
]


def recipe(folder: Path, agent: Path, **values) -> Path:
    fields = yaml.safe_load(RECIPE.read_text()) | {
        "model_name_or_path": str(agent),
        "output_dir": "run",
        "use_cpu": True,
    }
    fields |= {"max_steps": 1, "environment_examples": 8, "per_device_train_batch_size": 4}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(fields | values))
    return file


@pytest.mark.parametrize(("values", "message"), VALUES, ids=lambda v: str(v)[:60] if isinstance(v, dict) else "")
def test_values_of_a_recipe(agent, tmp_path, refused, values, message):
    assert message in refused("train", "--config", recipe(tmp_path, agent, **values))


TEXTS = {
    "empty": (b"", "must be a YAML mapping"),
    "a list": (b"- epsilon\n- 0.1\n", "must be a YAML mapping"),
    "a word": (b"epsilon\n", "must be a YAML mapping"),
    "numbers as keys": (b"1: 2\n", "must be a YAML mapping"),
    "half a mapping": (b"epsilon: [0.1\n", "cannot be read"),
    "a tab": (b"epsilon:\n\t- 1\n", "cannot be read"),
    "twice": (b"epsilon: 0.1\nepsilon: 0.2\n", "it contains `epsilon` more than once"),
    "not UTF-8": (b"output_dir: caf\xe9\n", "cannot be read"),
    "UTF-16": ("epsilon: 0.1\n".encode("utf-16"), "cannot be read"),
    "NUL": (b"epsilon: \x00\n", "cannot be read"),
    "a tag that runs code": (b"epsilon: !!python/object/apply:os.system ['touch hacked']\n", "cannot be read"),
    "an object": (b"epsilon: !!python/object/new:pathlib.Path ['x']\n", "cannot be read"),
    "a bomb": (bomb().encode(), "aliases such as *a0 are not supported"),
    "a merge": (b"a: &a {epsilon: 0.1}\n<<: *a\n", "aliases"),
    "deep": (b"epsilon: " + b"[" * 1000 + b"]" * 1000, "nested too deeply"),
}


@pytest.mark.parametrize(
    "text", ['hub_token: "hf_secret\n', "hub_token: [hf_secret]\n", "hub_token: {a: hf_secret}\n"]
)
def test_a_mistake_does_not_show_a_token(text, tmp_path, refused):
    (tmp_path / "recipe.yaml").write_text(text)
    assert "hf_secret" not in refused("train", "--config", tmp_path / "recipe.yaml")


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_are_no_recipe(name, tmp_path, refused):
    content, message = TEXTS[name]
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert message in refused("train", "--config", file)


def test_files_that_are_no_recipe(tmp_path, refused):
    assert "there is no file nowhere.yaml" in refused("train", "--config", "nowhere.yaml")
    assert "there is no file" in refused("train", "--config", tmp_path)
    assert "`--config` needs" in refused("train", "--config")


def damaged(agent: Path, folder: Path, name: str) -> Path:
    """A copy of an agent with something wrong in it."""
    model = folder / "agent"
    shutil.copytree(agent, model)
    weights = model / "model.safetensors"
    if name == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    elif name == "no weights":
        weights.unlink()
    elif name == "not safetensors":
        weights.write_bytes(b"These are no tensors." * 100)
    elif name == "pickled":
        weights.unlink()
        torch.save({"weight": torch.zeros(1)}, model / "pytorch_model.bin")
    elif name == "pickled code":
        weights.unlink()
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch()))
    elif name == "climbing":
        weights.unlink()
        index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../outside.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    elif name == "config":
        (model / "config.json").write_text("{")
    elif name == "model type":
        (model / "config.json").write_text('{"model_type": "unheard-of"}')
    elif name == "tokenizer":
        (model / "tokenizer.json").write_text('{"version": 1}')
    elif name == "no tokenizer":
        for file in model.glob("tokenizer*"):
            file.unlink()
    elif name == "no template":
        (model / "chat_template.jinja").unlink()
    elif name == "broken template":
        (model / "chat_template.jinja").write_text("{% for %}")
    elif name == "larger tokenizer":
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        first = max(tokenizer["model"]["vocab"].values()) + 1000
        tokenizer["model"]["vocab"] |= {f"word{i}": first + i for i in range(1000)}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


class Touch:
    def __reduce__(self):
        return (os.system, ("touch hacked",))


MODELS = {
    "truncated": "damaged",
    "no weights": "model.safetensors",
    "not safetensors": "damaged",
    "pickled": "safetensors",
    "pickled code": "safetensors",
    "climbing": "outside",
    "config": "config.json",
    "model type": "unheard-of",
    "tokenizer": "tokenizer",
    "no tokenizer": "tokenizer",
    "no template": "chat template",
    "broken template": "template",
    "larger tokenizer": "tokenizer",
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_trained(name, agent, tmp_path, refused):
    model = damaged(agent, tmp_path, name)
    assert MODELS[name] in refused("train", "--config", recipe(tmp_path, model))
    if name not in ("larger tokenizer", "broken template"):
        evaluation = ["--examples", "4", "--output", "report"]
        assert refused("evaluate", model, *evaluation)


DATA = {
    "missing": (None, "data.jsonl"),
    "empty": (b"", "data.jsonl"),
    "not JSON": (b'{"prompt": \n', "data.jsonl"),
    "not UTF-8": (
        b'{"prompt": "caf\xe9", "completion": "b"}\n',
        "data.jsonl line 1: is not UTF-8",
    ),
    "other columns": (b'{"question": "a", "answer": "b"}\n', "question"),
    "no completion": (json.dumps(ROW | {"completion": []}).encode() + b"\n", "data.jsonl line 1"),
    "numbers": (b'{"prompt": 1, "completion": 2}\n', "set `skip_invalid_rows` to true"),
    "1 MB": (
        json.dumps(ROW | {"prompt": [{"role": "user", "content": "a b " * 250_000}]}).encode(),
        "`max_length`",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on(name, agent, tmp_path, refused):
    content, message = DATA[name]
    if content is not None:
        (tmp_path / "data.jsonl").write_bytes(content)
    values = {"environment": None, "dataset_name": "data.jsonl", "max_length": 64}
    assert message in refused("train", "--config", recipe(tmp_path, agent, **values))


def test_places_that_cannot_be_written_to(agent, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    assert "`output_dir`" in refused("train", "--config", recipe(tmp_path, agent, output_dir="file"))
    assert "`output_dir`" in refused("train", "--config", recipe(tmp_path, agent, output_dir="file/run"))
    for output in ("file", "file/sub", "/proc/nope"):
        for command in (["evaluate", "nowhere"], ["compare", "nowhere", "here"]):
            assert f"`--output`: {output} is not writable" in refused(*command, "--output", output)
    measured = ["rank", "--config", recipe(tmp_path, agent, regularizer="aajr"), "--model", "nowhere"]
    assert "`output`: file/sub is not writable" in refused(*measured, "--output", "file/sub")


OTHERS = [
    (["init-agent", "x", "--agents", "1"], "`--agents` must be from 2 to 100"),
    (["push", "nowhere", "a/b"], "no model in nowhere"),
    (["replay", "nowhere"], "no dump in nowhere"),
    (["evaluate"], "MODEL"),
    (["evaluate", "a=x", "a=y"], "named 'a'"),
    (["evaluate", "nowhere", "--examples", "0"], "`--examples`"),
    (["evaluate", "nowhere", "--seed", str(10**20)], "`--seed` must be from 0 to 4294967295"),
    (["init-agent", "new", "--seed", str(2**32)], "`--seed` must be from 0 to 4294967295"),
    (["rank", "--config", str(RECIPE), "--model", "nowhere", "--seed", str(2**32)], "`seed` must be from 0"),
    (["evaluate", "nowhere", "--epsilon", "-1"], "`--epsilon` must be a finite number of at least 0; got -1.0"),
    (["evaluate", "nowhere", "--attacks", "pga"], "`--attacks`: unknown attack 'pga': choose from warm_nll"),
    (["compare", "nowhere", "here", "--attacks", "token"], "`--attacks`: token cannot be used alone"),
    (["compare", "nowhere", "here", "--epsilon", "0"], "`--epsilon` must be above 0"),
    (["simulate", "--model", "nowhere", "--attack", "pga"], "argument --attack: invalid choice: 'pga'"),
    (["evaluate", "nowhere", "--multiples", "nan"], "`--multiples`"),
    (["evaluate", "nowhere", "--multiples", "1", "1.0"], "`--multiples` must differ"),
    (["evaluate", "nowhere", "--multiples", "1", "1.0000001"], "`--multiples` must differ"),
    (["init-agent"], "required"),
    (["merge", "nowhere", "out"], "no adapter in nowhere"),
    (["rank", "--config", str(RECIPE)], "`model` is missing"),
    (["train", "--epsilon"], "epsilon"),
    (["train", "--config", str(RECIPE), "stray"], "stray"),
    (["push", "x", "y", "--token", "hf_secret"], "unrecognized arguments"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), OTHERS, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else ""
)
def test_commands_that_are_wrong(arguments, message, refused):
    assert message in refused(*arguments)


def test_debug_shows_where_an_error_comes_from(capsys):
    assert main(["train", "--config", "nowhere.yaml", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.strip().splitlines()[-1].startswith("error: ")


def test_there_are_as_many_cases_as_promised():
    assert len(VALUES) + len(TEXTS) + len(MODELS) + len(DATA) + len(OTHERS) >= 60
