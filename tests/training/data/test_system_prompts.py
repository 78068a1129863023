"""A system prompt is read from a file, put before observations, and refused where a chat template would lose it."""

from __future__ import annotations

import copy
import logging

import pytest
from jinja2 import TemplateError

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.environments import expert_rows
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.data.sources import DataArguments, DataError, load_data
from aajr_hf.training.data.system_prompts import (
    check_system_role,
    read_system_prompt,
    warn_of_added,
    with_system_prompt,
)
from aajr_hf.training.data.template import Template
from tests.support.templates import TEMPLATES
from tests.support.tiny import TOKENIZER, dataset, tiny_model, trainer_arguments

TEXT = "Answer like this:\ntake 1 via a yield 2 – nothing else."
REFUSING = """{%- if messages[0].role == 'system' -%}{{- raise_exception('no system here') -}}{%- endif -%}
{%- for message in messages -%}{{- message.content -}}{%- endfor -%}"""
DEAF = "{%- for message in messages if message.role != 'system' -%}{{- message.content -}}{%- endfor -%}"


def with_template(template: str):
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    return tokenizer


def test_a_file_is_read_without_the_space_around_it(tmp_path):
    (tmp_path / "prompt.txt").write_text(f"\n{TEXT}\n\n", encoding="utf-8-sig")  # as editors on Windows write it
    assert read_system_prompt(str(tmp_path / "prompt.txt")) == TEXT


WRONG = {
    "none.txt": (None, "none.txt cannot be read (No such file or directory)"),
    "folder": ("", "folder cannot be read (Is a directory)"),
    "empty.txt": (b" \n\t\n", "empty.txt is empty"),
    "latin.txt": ("nur für Agenten".encode("latin-1"), "latin.txt is not UTF-8 text"),
}


@pytest.fixture(params=WRONG)
def wrong(request, tmp_path):
    """A file that is no system prompt, and what is said about it."""
    content, message = WRONG[request.param]
    file = tmp_path / request.param
    if content == "":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    return str(file), message


def test_what_is_no_text_is_said(wrong):
    file, message = wrong
    with pytest.raises(ValueError) as caught:
        read_system_prompt(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        load_data(DataArguments(environment="congestion", system_prompt=file))
    assert str(caught.value).startswith("`system_prompt`: ") and message in str(caught.value)


def test_it_stands_first_in_every_prompt_and_rows_stay_as_they_were():
    rows = expert_rows("congestion", 3, seed=0)
    before = copy.deepcopy(rows)
    assert with_system_prompt(rows, None) is rows
    found = with_system_prompt(rows, TEXT)
    assert rows == before
    system = {"role": "system", "content": TEXT}
    assert found == [row | {"prompt": [system, *row["prompt"]]} for row in rows]


def test_training_and_test_rows_of_a_world_have_it(tmp_path):
    (tmp_path / "prompt.txt").write_text(TEXT)
    given = {"environment": "congestion", "environment_examples": 40}
    plain = load_data(DataArguments(**given))
    data = load_data(DataArguments(**given, system_prompt=str(tmp_path / "prompt.txt")))
    for split in ("train", "test"):
        rows = list(plain.read(split, "split"))
        assert rows and list(data.read(split, "split")) == with_system_prompt(rows, TEXT)
    # What a recipe says can be unsaid.
    assert list(load_data(DataArguments(**given, system_prompt="")).read("test", "split")) == rows


def test_rows_of_a_dataset_have_their_own():
    with pytest.raises(DataError, match="`system_prompt` works only with `environment`"):
        load_data(DataArguments(dataset_name="rows.jsonl", system_prompt="prompt.txt"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_render_it_are_accepted(name):
    tokenizer = with_template(TEMPLATES[name])
    tokenizer.bos_token = tokenizer.eos_token  # which some of them write
    check_system_role(tokenizer, TEXT)


def test_a_template_that_renders_nothing_at_all_is_not_said_to_refuse_system_messages():
    with pytest.raises(TemplateError, match="nothing"):
        check_system_role(with_template("{{- raise_exception('nothing') -}}"), TEXT)


def test_templates_that_do_not_render_it_are_not():
    for template, message in ((REFUSING, "refuses system messages (no system here)"), (DEAF, "leaves out system")):
        with pytest.raises(ValueError) as caught:
            check_system_role(with_template(template), TEXT)
        assert f"The chat template {message}" in str(caught.value)
        check_system_role(with_template(template), None)


def test_it_is_no_observation():
    rows = expert_rows("congestion", 3, seed=0)
    plain, led = (
        encode_examples(TOKENIZER, some, candidates=True, perturbed_tokens="observation")
        for some in (rows, with_system_prompt(rows, TEXT))
    )
    for i in range(len(rows)):
        moved = [inputs["input_ids"][i, : inputs["observation_mask"].shape[1]] for inputs in (plain, led)]
        moved = [ids[inputs["observation_mask"][i] == 1] for ids, inputs in zip(moved, (plain, led), strict=True)]
        assert moved[0].tolist() == moved[1].tolist() and len(moved[0])
    assert led["input_ids"].shape[1] > plain["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("template", "added"),
    [("qwen2_5", "system You are Qwen"), ("smollm3", "Custom Instructions"), ("chatml", None), ("llama3", None)],
)
def test_what_a_template_adds_by_itself_is_said(caplog, template, added):
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        warn_of_added(Template(with_template(TEMPLATES[template])))
    if added is None:
        assert not caplog.messages
    else:
        assert added in caplog.text and "set `perturbed_tokens` to observation" in caplog.text


@pytest.mark.parametrize(("perturbed", "said"), [("prompt", True), ("observation", False)])
def test_a_training_says_that_the_adversary_perturbs_what_the_template_adds(tmp_path, caplog, perturbed, said):
    tokenizer = with_template(TEMPLATES["qwen2_5"])
    arguments = AAJRConfig(**trainer_arguments(tmp_path, perturbed_tokens=perturbed))
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        AAJRTrainer(
            tiny_model(vocab_size=len(TOKENIZER)), arguments, train_dataset=dataset(), processing_class=tokenizer
        )
    assert ("adds a text of its own" in caplog.text) == said
