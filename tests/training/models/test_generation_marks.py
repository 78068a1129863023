"""`assistant_only_loss` needs marks in the chat template: without them, the error names what to set instead."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset

from aajr_hf import AAJRConfig, AAJRTrainer
from tests.support.tiny import ROWS, WORDS, tiny_model, trainer_arguments

TALKS = Dataset.from_list([{"messages": row["prompt"] + row["completion"]} for row in ROWS[:4]])
PLAIN = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"


def trained_on(folder, template, **overrides):
    tokenizer = copy.deepcopy(WORDS)
    tokenizer.chat_template = template
    config = AAJRConfig(**trainer_arguments(folder, assistant_only_loss=True, **overrides))
    return AAJRTrainer(tiny_model(), config, train_dataset=TALKS, processing_class=tokenizer)


def test_a_template_without_marks_is_refused_with_both_remedies(tmp_path):
    with pytest.raises(ValueError, match="`assistant_only_loss`.*`chat_template_path`.*`prompt` and `completion`"):
        trained_on(tmp_path, PLAIN)
    assert trained_on(tmp_path, WORDS.chat_template).train_dataset[0]["labels"]


def test_the_template_of_the_file_counts(tmp_path):
    for name, template in (("plain.jinja", PLAIN), ("marked.jinja", WORDS.chat_template)):
        (tmp_path / name).write_text(template)
    with pytest.raises(ValueError, match="`assistant_only_loss`"):
        trained_on(tmp_path, WORDS.chat_template, chat_template_path=str(tmp_path / "plain.jinja"))
    assert trained_on(tmp_path, PLAIN, chat_template_path=str(tmp_path / "marked.jinja")).train_dataset[0]["labels"]


def test_a_tokenizer_that_is_not_given_is_that_of_the_model(tmp_path):
    for template in (PLAIN, WORDS.chat_template):
        folder = tmp_path / str(len(template))
        tokenizer = copy.deepcopy(WORDS)
        tokenizer.chat_template = template
        tiny_model().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = AAJRConfig(**trainer_arguments(tmp_path / "run", assistant_only_loss=True))
        if template == PLAIN:
            with pytest.raises(ValueError, match="`chat_template_path`"):
                AAJRTrainer(str(folder), config, train_dataset=TALKS)
        else:
            assert AAJRTrainer(str(folder), config, train_dataset=TALKS)


def test_a_template_of_a_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`chat_template_path`: The tokenizer of"):
        trained_on(tmp_path, PLAIN, chat_template_path=str(tmp_path / "empty"))
