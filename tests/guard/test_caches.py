"""A cache that a peer wrote says what its text says."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.episodes.players import ModelPlayer
from aajr_hf.evaluation.episodes.sharing import SharingPlayer
from aajr_hf.evaluation.generation import render_prompts
from aajr_hf.guard.caches import answer_logits, write
from aajr_hf.guard.guard import CacheGuard, cache_widths
from aajr_hf.guard.prompts import shared_prompts
from tests.support.small_agents import TOKENIZER, fit, model
from tests.support.tiny import WORDS

# Of unequal lengths, messages and own tokens.
MESSAGES, OWN, ANSWERS = (
    [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]],
    [[13], [14, 15, 16], [17, 18]],
    [[19, 20], [21], [22]],
)
ROWS = [row for agents in (2, 3, 4) for row in expert_rows("congestion", agents, seed=0, agents=agents, messages=True)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi3"])
def test_a_shared_prefix_gives_the_logits_of_one_forward_over_the_concatenation(tiny_causal_lm, family, attention):
    agent = tiny_causal_lm(family, attn_implementation=attention, dtype=torch.float64)
    states, mask = write(agent, MESSAGES, 0)
    logits, labels = answer_logits(agent, states, mask, OWN, ANSWERS, 0)
    for i, (message, own, answer) in enumerate(zip(MESSAGES, OWN, ANSWERS, strict=True)):
        whole = agent(torch.tensor([[*message, *own, *answer]])).logits[0, len(message) + len(own) - 1 : -1]
        predicted = labels[i] != -100
        assert labels[i][predicted].tolist() == answer
        torch.testing.assert_close(logits[i][predicted], whole)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 128])
def test_agents_answer_from_raw_caches_as_from_the_text(batch_size):
    agent = fit(model(), TOKENIZER, ROWS[::2])
    expected = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    assert len(set(expected)) > 3
    assert SharingPlayer(agent, TOKENIZER, batch_size=batch_size).answer(ROWS) == expected
    guard = CacheGuard(cache_widths(agent), 3)
    assert SharingPlayer(agent, TOKENIZER, guard=guard, batch_size=batch_size).answer(ROWS) != expected


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WORDS], ids=["bytes", "words"])
def test_message_and_own_tokens_are_those_of_the_prompt(tokenizer):
    for row, prompt, whole in zip(
        ROWS, shared_prompts(tokenizer, ROWS), render_prompts(tokenizer, ROWS)[0], strict=True
    ):
        assert prompt.message + prompt.own == whole
        # The reader reads none of the sender's words as text.
        own = row["prompt"][0]["content"].removeprefix(row["message"]).split()
        assert tokenizer.decode(prompt.own, skip_special_tokens=True).split() == own


def test_a_message_whose_last_word_runs_into_the_next_is_refused():
    row = ROWS[0] | {"message": ROWS[0]["message"][:-2] + " "}
    with pytest.raises(ValueError, match="joins the last word of a message"):
        shared_prompts(TOKENIZER, [row])


def test_models_without_full_attention_are_refused(tiny_causal_lm):
    with pytest.raises(ValueError, match="A gemma3_text model cannot share caches"):
        cache_widths(tiny_causal_lm("gemma3"))
