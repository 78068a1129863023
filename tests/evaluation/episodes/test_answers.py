"""What a model answers in an episode, without an adversary."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AddedToken, GenerationConfig

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.attacks.target import success
from aajr_hf.evaluation.episodes import players
from aajr_hf.evaluation.episodes.players import ModelPlayer
from aajr_hf.evaluation.generation import decoded, end_mark, end_of_answer, generate, render_prompts
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.data.system_prompts import with_system_prompt
from aajr_hf.training.policy.policy import AgentPolicy
from tests.support.answers import ATTACK, ROWS, greedy
from tests.support.small_agents import TOKENIZER, fit, model
from tests.support.templates import CHATML


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_answers_are_the_likeliest_tokens_one_by_one(agent, batch_size):
    expected = [greedy(agent, row) for row in ROWS]
    assert len(set(expected)) > 3
    assert ModelPlayer(agent, TOKENIZER, batch_size=batch_size).answer(ROWS) == expected


def test_an_answer_that_does_not_end_is_cut_off_and_no_answer():
    random = model(seed=3)
    answers = ModelPlayer(random, TOKENIZER).answer(ROWS)
    assert answers == [greedy(random, row) for row in ROWS]
    unfinished = [answer for answer in answers if answer.endswith("…")]
    assert unfinished and all(WORLDS["congestion"].parse(answer) is None for answer in unfinished)


def test_what_a_model_thinks_first_is_no_part_of_its_answer(agent):
    said = TOKENIZER("<think>\n\n</think>\n\ntake 2 via a yield 1")["input_ids"]
    player = ModelPlayer(agent, TOKENIZER)
    assert player._text([*said, TOKENIZER.eos_token_id, *said], 1000) == "take 2 via a yield 1"


def test_the_models_own_settings_of_generation_change_nothing():
    agent = fit(model(), TOKENIZER, ROWS[::2])
    expected = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    agent.generation_config = GenerationConfig(do_sample=True, repetition_penalty=9.0, max_length=3)
    assert ModelPlayer(agent, TOKENIZER).answer(ROWS) == expected


def test_the_token_after_an_answer_ends_it_whatever_the_tokenizer_calls_its_end():
    tokenizer, end = copy.deepcopy(TOKENIZER), TOKENIZER.eos_token_id
    tokenizer.eos_token = "<|user|>"
    agent = model()
    agent.generation_config.eos_token_id = None
    assert {end, tokenizer.eos_token_id} <= set(ModelPlayer(agent, tokenizer)._ends)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "same"), [("special", True), ("special", False), ("added", False), ("pieces", False)])
def test_what_a_model_says_after_its_answer_is_cut_off(end, same):
    """A template in ChatML, whose end of a turn is a token, special or not, or several tokens that together read so."""
    tokenizer, mark = copy.deepcopy(TOKENIZER), "<|im_end|>"
    tokenizer.chat_template = CHATML
    if end != "pieces":
        tokenizer.add_tokens([AddedToken(mark, special=end == "special", normalized=False)])
    knows = ROWS[:3]
    rambles = [
        row | {"completion": [{"role": "assistant", "content": f"{row['completion'][0]['content']}{mark} and so on"}]}
        for row in knows
    ]
    agent = model(tokenizer)
    fit(agent, tokenizer, rambles)
    if same:
        tokenizer.eos_token = mark
        agent.generation_config.eos_token_id = tokenizer.eos_token_id
    prompts, references = render_prompts(tokenizer, knows)
    said = generate(agent, tokenizer.pad_token_id, prompts, None, 40)
    # By itself it goes on, or it would prove nothing.
    if not same:
        assert all(f"{mark} and" in decoded(tokenizer, tokens) for tokens in said)
    answers = ModelPlayer(agent, tokenizer).answer(knows)
    assert answers == [row["completion"][0]["content"] for row in knows]
    assert end_mark(tokenizer) == (mark if end == "pieces" else "")


def test_a_mark_in_pieces_ends_an_answer_before_an_end_token_does_and_after_none():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = CHATML
    said, eos = tokenizer("take 1<|im_end|> a b")["input_ids"], tokenizer.eos_token_id
    end = end_of_answer(tokenizer, [*said, eos], [eos], "<|im_end|>")
    assert decoded(tokenizer, said[: end + 1]).endswith("<|im_end|>") and end < len(said)
    assert end_of_answer(tokenizer, [eos, *said], [eos], "<|im_end|>") == 0
    assert end_of_answer(tokenizer, said[:end], [eos], "<|im_end|>") is None


def test_a_system_prompt_stands_before_every_observation_that_a_model_reads(agent, monkeypatch):
    seen, text = [], "You are one of several agents."
    monkeypatch.setattr(
        players,
        "worst_prompts",
        lambda model, tokenizer, rows, attack: (
            seen.append(rows) or (torch.zeros(len(rows), 1, 16), torch.zeros(len(rows)))
        ),
    )
    player = ModelPlayer(agent, TOKENIZER, attack=ATTACK, system_prompt=text)
    player.check(ROWS)
    plain, led = ModelPlayer(agent, TOKENIZER)._prompts(ROWS)[0], []
    monkeypatch.setattr(
        players, "generate", lambda *asked: led.extend(asked[2]) or [[TOKENIZER.eos_token_id]] * len(ROWS)
    )
    player.answer(ROWS)
    assert seen == [with_system_prompt(ROWS, text)]
    system = TOKENIZER(f"<|system|>{text}<|end|>")["input_ids"]
    assert led == [system + prompt for prompt in plain]
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = "{%- for m in messages if m.role != 'system' -%}{{- m.content -}}{%- endfor -%}"
    with pytest.raises(ValueError, match="leaves out system messages"):
        ModelPlayer(agent, tokenizer, system_prompt=text).check(ROWS)


@pytest.mark.slow
def test_sampling_follows_the_probabilities(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    temperature = 1.5
    with torch.no_grad():
        _, probabilities = success(AgentPolicy(agent, batch)() / temperature, batch)
    # The row whose answer is the most uncertain.
    chosen = int((probabilities - 0.5).abs().argmin())
    probability, row = float(probabilities[chosen]), ROWS[chosen]
    assert 0.1 < probability < 0.9
    answers = ModelPlayer(agent, TOKENIZER, temperature=temperature, batch_size=2000).answer([row] * 2000)
    frequency = sum(answer == row["completion"][0]["content"] for answer in answers) / len(answers)
    assert frequency == pytest.approx(probability, abs=0.04)
