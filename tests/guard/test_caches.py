"""A cache that a peer wrote says what its text says; a guard that is new changes nothing."""

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
from aajr_hf.training.policy.policy import fixed_seed
from tests.support.small_agents import TOKENIZER, fit, model
from tests.support.tiny import WORDS

# Of unequal lengths, messages and own tokens.
MESSAGES, OWN, ANSWERS = (
    [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]],
    [[13], [14, 15, 16], [17, 18]],
    [[19, 20], [21], [22]],
)
ROWS = [row for agents in (2, 3, 4) for row in expert_rows("congestion", agents, seed=0, agents=agents, messages=True)]


def new_guard(agent, bottleneck: int = 3) -> CacheGuard:
    return CacheGuard(cache_widths(agent), bottleneck)


def changed(guard: CacheGuard) -> CacheGuard:
    for name, weight in guard.named_parameters():
        if name.endswith("outer.weight"):
            torch.nn.init.normal_(weight)
    return guard


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


def test_a_new_guard_is_raw_sharing_to_the_bit(tiny_causal_lm):
    for dtype in (torch.float32, torch.bfloat16):
        agent = tiny_causal_lm("llama", dtype=dtype)
        states, mask = write(agent, MESSAGES, 0)
        guard = new_guard(agent)
        for before, after in zip(states, guard(states), strict=True):
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
        raw = answer_logits(agent, states, mask, OWN, ANSWERS, 0)[0]
        assert torch.equal(answer_logits(agent, guard(states), mask, OWN, ANSWERS, 0)[0], raw)
        assert not torch.equal(answer_logits(agent, changed(guard)(states), mask, OWN, ANSWERS, 0)[0], raw)


def test_the_guard_is_its_equation():
    guard = changed(CacheGuard([(4, 6), (2, 2)], 3))
    states = [(torch.randn(2, 2, 5, 2), torch.randn(2, 3, 5, 2)), (torch.randn(2, 1, 5, 2), torch.randn(2, 1, 5, 2))]
    with fixed_seed(torch.device("cpu"), 0):
        passed = guard(states)
    with fixed_seed(torch.device("cpu"), 0):
        noise = [torch.randn(2, 5, width) for width in (4, 6, 2, 2)]
    before, after = ([one for pair in found for one in pair] for found in (states, passed))
    for row in range(2):
        for token in range(5):
            flat = [one[row, :, token].flatten() for one in before]
            seen = torch.cat([torch.nn.functional.layer_norm(one, one.shape) for one in flat])
            for change, mine, new, drawn in zip(guard.changes, flat, after, noise, strict=True):
                inner = torch.nn.functional.gelu(change.inner.weight @ seen + change.inner.bias)
                shift, scale = (change.outer.weight @ inner).chunk(2)
                torch.testing.assert_close(new[row, :, token].flatten(), mine + shift + scale * drawn[row, token])


def test_the_noise_is_drawn_anew_in_each_call():
    guard = changed(CacheGuard([(4, 4)], 3))
    states = [(torch.randn(1, 1, 2, 4), torch.randn(1, 1, 2, 4))]
    assert not torch.equal(guard(states)[0][0], guard(states)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 128])
def test_agents_answer_from_raw_caches_as_from_the_text(batch_size):
    agent = fit(model(), TOKENIZER, ROWS[::2])
    expected = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    assert len(set(expected)) > 3
    for guard in (None, new_guard(agent)):
        assert SharingPlayer(agent, TOKENIZER, guard=guard, batch_size=batch_size).answer(ROWS) == expected
    assert SharingPlayer(agent, TOKENIZER, guard=changed(new_guard(agent))).answer(ROWS) != expected


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


def test_a_guard_of_another_shape_is_refused(tiny_causal_lm):
    agent = tiny_causal_lm("llama")
    new_guard(agent).check_fits(agent)
    with pytest.raises(ValueError, match=r"caches of 1 layers of widths 8\+8, but those of the model have 2 layers"):
        CacheGuard([(8, 8)], 3).check_fits(agent)
