"""scripts/penalty_variance.py, on an agent of a few thousand weights."""

from __future__ import annotations

import sys

import penalty_variance
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from aajr_hf.environments import expert_rows
from aajr_hf.training.models.base_agent import train_tokenizer


@pytest.fixture
def agent(tmp_path):
    rows = expert_rows("congestion", 50, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "agent")
    tokenizer.save_pretrained(tmp_path / "agent")
    return str(tmp_path / "agent")


@pytest.mark.slow
def test_the_spread_of_each_setting(agent):
    batches, whole, *others = penalty_variance.measure(agent, batch_size=4, draws=3)
    assert batches["relative_spread"] > 0
    assert (whole["setting"], whole["share_of_the_work"]) == ("all, 1, 1", 1)
    # Nothing is drawn: what is left is rounding.
    for name in ("drawn_alone", "relative_spread"):
        assert whole[name] < 1e-3 < min(row[name] for row in others)
    shares = [row["share_of_the_work"] for row in others]
    assert shares[:2] == pytest.approx([1 / 3, 1 / 6]) and len(others) == len(penalty_variance.SETTINGS) - 1


def test_a_missing_model_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["penalty_variance.py", "--model", "nowhere"])
    with pytest.raises(SystemExit) as exit:
        penalty_variance.main()
    assert exit.value.code == 2 and capsys.readouterr().err.count("\n") == 1
