"""`perturbed_tokens` incidental: the adversary moves exactly the tokens of words that the call does not use."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
import torch
from datasets import Dataset

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.tool_calls.evaluate import ToolCallSettings, evaluate_tool_calls
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.data.variants import with_variants
from tests.support.small_agents import model
from tests.support.tiny import trainer_arguments
from tests.support.tool_callers import HERMES, TOOLS, calling, tokenizer_with

ROWS = [
    calling("Hi, I am Bob from Oslo, room 17. Dim den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})]),
    calling("My friend Alice (42) says: heat hall to 20.0!", TOOLS, [("heat", {"room": "hall", "degrees": 20})]),
    calling("Dim den to 3.", TOOLS, [("dim", {"room": "den", "level": 3})]),
]
WORDS = [["Bob", "Oslo", "17"], ["Alice", "42"], []]
TEXTS = [row["prompt"][0]["content"] for row in ROWS]


@pytest.mark.parametrize("template", ["qwen3", HERMES], ids=["qwen3", "hermes"])
@pytest.mark.parametrize("size", [260, 700], ids=["letters", "words"])
def test_exactly_the_tokens_of_these_words_are_moved(template, size):
    tokenizer = tokenizer_with(template, TEXTS * 20, vocab_size=size)
    batch = read_batch(tokenizer, read_rows(ROWS), "incidental", "cpu", candidates=False)
    for ids, moved, words in zip(batch.input_ids, batch.perturbable.tolist(), WORDS, strict=True):
        places = itertools.groupby(range(len(ids)), moved.__getitem__)
        assert [tokenizer.decode(ids[list(run)]).strip() for is_moved, run in places if is_moved] == words


def make(folder, rows, vocab_size=700, **fields):
    tokenizer = tokenizer_with(HERMES, TEXTS * 20, vocab_size=vocab_size)
    fields = {"max_steps": 2, "learning_rate": 0.01, "perturbed_tokens": "incidental", "epsilon": 0.25} | fields
    config = AAJRConfig(**trainer_arguments(folder, **fields))
    return AAJRTrainer(model(tokenizer), config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.mark.slow
def test_training_moves_them_and_leaves_other_examples_unmoved(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    run = make(tmp_path, ROWS * 4, aajr_warmup_ratio=0.0, clean_loss_weight=1.0, regularizer_lambda=1e-3)
    assert "4 of 12 training examples have no word of which it is known" in caplog.text
    run.train()
    logs = [log for log in run.state.log_history if "loss" in log]
    assert len(logs) == 2 and all(torch.isfinite(torch.tensor(list(log.values()))).all() for log in logs)
    assert all(log["aajr/delta_norm"] > 0 and log["aajr/penalty"] > 0 for log in logs)
    alone = make(tmp_path, [ROWS[0], *ROWS[2:] * 3], per_device_train_batch_size=1, max_steps=4)
    alone.train()
    norms = [log["aajr/delta_norm"] for log in alone.state.log_history if "loss" in log]
    assert sum(norm > 0 for norm in norms) == 1 and norms.count(0.0) == 3


def test_where_no_example_has_such_a_word_the_field_is_named(tmp_path):
    with pytest.raises(ValueError, match="Example 0 has no perturbable token: give examples with `tools`"):
        make(tmp_path, ROWS[2:])


@pytest.mark.slow
def test_under_attack_rows_without_such_words_stay_as_they_are():
    rows = read_rows(ROWS)
    tokenizer = tokenizer_with(HERMES, TEXTS * 20, vocab_size=700)
    attacks = ("warm_nll", "universal", "predicted", "random", "margin")
    settings = ToolCallSettings(
        threat=ThreatModel(perturbed_tokens="incidental"), multiples=(1.0, 50.0), attacks=attacks, attack_steps=2
    )
    numbers = evaluate_tool_calls(model(tokenizer), tokenizer, rows, settings)
    assert json.dumps(numbers, allow_nan=False)
    with pytest.raises(ValueError, match="no perturbable token"):
        evaluate_tool_calls(model(tokenizer), tokenizer, rows[2:], settings)


def test_variants_of_tool_calls_differ_in_these_words_alone(tmp_path):
    settings = {"perturbed_tokens": "observation", "regularizer": "matched", "nuisance": "variants"}
    run = make(tmp_path, ROWS, 260, nuisance_rank=64, regularizer_lambda=1e-3, **settings)
    factor, vectors = run.nuisance_factor(), run.model.get_input_embeddings().weight.detach().double()
    groups = with_variants(ROWS, run.args.seed)
    assert len(groups) == 2  # the third row has no such word
    differences = []
    for before, *after in groups:
        one, *others = (run.processing_class(row["prompt"][0]["content"])["input_ids"] for row in (before, *after))
        differences += [
            vectors[b] - vectors[a] for ids in others if len(ids) == len(one) for a, b in zip(one, ids, strict=True)
        ]
    rows = torch.stack(differences)
    assert torch.allclose(factor @ factor.T, rows.T @ rows / rows.square().sum(), atol=1e-6)
