"""Examples that are longer than the model has positions: refused, or named in one warning, and only if they exist."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from aajr_hf.training.data.lengths import check_lengths
from tests.support.completions import dpo, grpo
from tests.support.tiny import ROWS, WORDS, dataset, tiny_model, trainer

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def rows(lengths: list[int], kind: str) -> Dataset:
    if kind == "packed":
        # One document of each row is the longest.
        return Dataset.from_dict(
            {"input_ids": [[1] * (n + 1) for n in lengths], "seq_lengths": [[1, n] for n in lengths]}
        )
    if kind == "pairs":
        parts = {
            "prompt_ids": [n - 1 for n in lengths],
            "chosen_ids": [1] * len(lengths),
            "rejected_ids": [0] * len(lengths),
        }
        return Dataset.from_dict({name: [[1] * n for n in sizes] for name, sizes in parts.items()})
    return Dataset.from_dict({"input_ids": [[1] * n for n in lengths]})


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 12), st.sampled_from(["tokens", "packed", "pairs"]))
def test_the_first_longer_example_and_their_number_are_named(lengths, limit, kind):
    longer = [row for row, length in enumerate(lengths) if length > limit]
    if not longer:
        assert check_lengths(rows(lengths, kind), limit, True, None, "training") is not None
        return
    named = f"{len(longer)} of {len(lengths)} training examples .* example {longer[0]} with {lengths[longer[0]]} tokens.*`max_length` to {limit}"
    with pytest.raises(ValueError, match=named):
        check_lengths(rows(lengths, kind), limit, True, None, "training")


@settings(max_examples=10)
@given(LENGTHS)
def test_a_row_order_that_was_changed_is_followed(lengths):
    data = rows(lengths, "tokens").select(range(len(lengths) - 1, -1, -1))
    with pytest.raises(ValueError, match=f"the first is example 0 with {lengths[-1]} tokens"):
        check_lengths(data, 0, True, None, "training")


def test_a_stream_is_compared_while_it_is_read():
    data = check_lengths(rows([2, 5, 9], "tokens").to_iterable_dataset(), 4, True, None, "training")
    read = iter(data)
    assert len(next(read)["input_ids"]) == 2
    with pytest.raises(ValueError, match="Example 1 of the training data .* 5 tokens"):
        next(read)


def gpt2(positions: int) -> GPT2LMHeadModel:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=len(WORDS), n_positions=positions, bos_token_id=None, eos_token_id=1, **sizes)
    return GPT2LMHeadModel(config)


@pytest.mark.slow
def test_learned_positions_end_the_run_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match="`max_position_embeddings`.*`max_length` to 8"):
        trainer(tmp_path, gpt2(8))
    with pytest.raises(ValueError, match="evaluation examples .*`max_length`"):
        run = trainer(tmp_path, gpt2(64))
        run.eval_dataset = Dataset.from_dict({"input_ids": [[3] * 65]})
        run._check_lengths()
    trainer(tmp_path, gpt2(64)).train()
    assert trainer(tmp_path, gpt2(8), epsilon=0.0, regularizer="none", max_length=8, completion_only_loss=False)


def test_angles_go_on_after_one_warning(tmp_path, caplog):
    run = trainer(tmp_path, tiny_model(torch.float32, max_position_embeddings=8))
    run.train()
    told = [record.getMessage() for record in caplog.records if "max_position_embeddings" in record.getMessage()]
    assert len(told) == 1 and "`max_length` to 8" in told[0]
    caplog.clear()
    trainer(tmp_path, tiny_model(torch.float32), copy.deepcopy(dataset()))
    assert "max_position_embeddings" not in caplog.text


def test_pairs_are_compared_too(tmp_path):
    with pytest.raises(ValueError, match="`max_length` to 6"):
        dpo(tmp_path, gpt2(6), max_length=None)


@pytest.mark.parametrize("streamed", [False, True])
def test_prompts_and_their_answers_are_compared(tmp_path, streamed, caplog):
    longest = max(
        len(WORDS.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]) for row in ROWS[:16]
    )
    settings = {"perturbation_epsilon": 0.0, "regularizer": "none", "max_completion_length": 9, "streamed": streamed}
    grpo(tmp_path, gpt2(longest + 9), **settings)
    named = (
        f"`max_completion_length` = 9, can be longer than the {longest + 8} positions.*`max_completion_length` to 8"
    )
    with pytest.raises(ValueError, match=named):
        list(grpo(tmp_path, gpt2(longest + 8), **settings).train_dataset)
    assert "max_position_embeddings" not in caplog.text
    list(grpo(tmp_path, tiny_model(torch.float32, max_position_embeddings=longest + 8), **settings).train_dataset)
    assert caplog.text.count("`max_position_embeddings`") == 1 and "`max_completion_length` to 8" in caplog.text
