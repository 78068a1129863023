"""Former names of fields, and values that YAML reads in another way than they are meant."""

from __future__ import annotations

import re

import pytest

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.old_names import _REMOVED, _RENAMED, today
from aajr_hf.cli.arguments.parsing import RecipeParser
from aajr_hf.cli.common.errors import UserError
from aajr_hf.cli.launching.launch import LaunchArguments
from aajr_hf.training.config.sft import AAJRConfig


@pytest.fixture(scope="module")
def make():
    return lambda: RecipeParser((TrainArguments, LaunchArguments, AAJRConfig), prog="aajr train")


@pytest.fixture(scope="module")
def fields(make):
    return set(make()._field_names())


def read(make, tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(f"output_dir: {tmp_path}/run\nbf16: false\n{text}\n")
    return make().parse(["--config", str(tmp_path / "recipe.yaml")])


def test_no_former_name_is_a_field_and_every_answer_names_fields(fields):
    assert not fields & (_RENAMED.keys() | _REMOVED.keys())
    for name in (*_RENAMED, *_REMOVED):
        named = set(re.findall(r"`(\w+)`", today(name)))
        assert named <= fields | {"env"} and (named or name in _REMOVED), name
    assert not {name for name in fields if today(name) is not None}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("warmup_ratio", "warmup_steps"),
        ("torch_dtype", "dtype"),
        ("evaluation_strategy", "eval_strategy"),
        ("max_seq_length", "max_length"),
        ("no_cuda", "use_cpu"),
        ("per_gpu_train_batch_size", "per_device_train_batch_size"),
        ("tokenizer", "model_name_or_path"),
    ],
)
def test_they_are_answered_in_a_recipe_and_on_the_command_line(make, tmp_path, old, new):
    for spelled in (old, old.replace("_", "-")):
        with pytest.raises(UserError, match=f"`{spelled}`; set `{new}`"):
            make().check([f"--{spelled}", "1"])
    with pytest.raises(UserError, match=f"`{old}`; set `{new}`"):
        read(make, tmp_path, f"{old}: 1")


@pytest.mark.parametrize("word", ["no", "off", "No", "OFF", "false", "'no'"])
@pytest.mark.parametrize("name", ["save_strategy", "eval_strategy", "logging_strategy"])
def test_a_bare_no_is_no_strategy(make, tmp_path, name, word):
    if word == "false":
        word = "False"
    *_, config = read(make, tmp_path, f"{name}: {word}")
    assert getattr(config, name) == "no"


def test_a_bare_no_means_what_it_says_elsewhere(make, tmp_path):
    *_, config = read(make, tmp_path, "report_to: no\nregularizer: off\nload_best_model_at_end: no")
    assert config.report_to == [] and config.regularizer == "none" and config.load_best_model_at_end is False


@pytest.mark.parametrize("line", ["save_strategy: yes", "hub_strategy: no", "optim: off"])
def test_other_bare_words_are_answered_with_the_choices(make, tmp_path, line):
    with pytest.raises(UserError, match=f"`{line.split(':')[0]}` must be one of .*; got (True|False)"):
        read(make, tmp_path, line)
