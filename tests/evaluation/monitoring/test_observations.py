"""Scores of observations, against one pass of the model for each."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.evaluation.monitoring.log import Exchange
from aajr_hf.evaluation.monitoring.observations import ObservationScores
from tests.support.small_agents import ROWS, TOKENIZER, model

EXCHANGES = [Exchange(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in ROWS]


@pytest.fixture(scope="module")
def agent():
    return model()


def alone(agent, exchange):
    """Mean surprise of the observation's own tokens, and the state that answers."""
    prompt = [{"role": "user", "content": exchange.observation}]
    ids = TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    own = TOKENIZER(exchange.observation, add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(ids)) if ids[i : i + len(own)] == own)
    with torch.no_grad():
        output = agent(torch.tensor([ids]), output_hidden_states=True)
    log_probs = output.logits[0].log_softmax(dim=-1)
    surprise = -sum(float(log_probs[i - 1, ids[i]]) for i in range(start, start + len(own))) / len(own)
    return surprise, output.hidden_states[-1][0, -1]


def test_the_scores_are_those_of_single_passes(agent):
    scores = ObservationScores(agent, TOKENIZER, EXCHANGES[:3], batch_size=2)
    found = scores.of(EXCHANGES[2:])
    known = [alone(agent, exchange)[1] for exchange in EXCHANGES[:3]]
    for i, exchange in enumerate(EXCHANGES[2:]):
        surprise, state = alone(agent, exchange)
        assert found["surprise"][i] == pytest.approx(surprise, rel=1e-4)
        nearest = min(float((state - other).norm()) for other in known)
        assert found["distance"][i] == pytest.approx(nearest, abs=1e-3)
    assert found["distance"][0] < 1e-3 < found["distance"][1]


def test_the_observations_of_a_line_count_as_one(agent):
    scores = ObservationScores(agent, TOKENIZER, EXCHANGES[:3])
    single = scores.of(EXCHANGES[:4])
    lines = scores.of_lines([EXCHANGES[:3], EXCHANGES[3:4]])
    for name, values in single.items():
        assert lines[name][0] == pytest.approx(sum(values[:3]) / 3) and lines[name][1] == pytest.approx(values[3])


def test_changed_words_have_a_length_where_the_tokens_are_as_many(agent):
    text = EXCHANGES[0].observation
    words = text.split()
    swapped = " ".join([*words[:3], words[5], words[4], words[3], *words[6:]])
    scores = ObservationScores(agent, TOKENIZER, EXCHANGES[:1])
    embed = agent.get_input_embeddings()
    ids = [TOKENIZER(t, add_special_tokens=False, return_tensors="pt")["input_ids"][0] for t in (text, swapped)]
    before, after = (embed(one).detach() for one in ids)
    expected = float((after - before).norm() / before.norm(dim=-1).mean())
    assert scores.moved(Exchange(swapped, "x", unchanged=text)) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert scores.moved(Exchange(text, "x", unchanged=text)) == 0
    assert scores.moved(Exchange(text + " more", "x", unchanged=text)) is None


def test_a_system_prompt_stands_before_the_observation_and_is_no_part_of_it(agent):
    plain, led = (ObservationScores(agent, TOKENIZER, EXCHANGES[:2], system_prompt=p) for p in (None, "Be brief."))
    batches = [scores._batch(EXCHANGES[:2]) for scores in (plain, led)]
    assert batches[0].input_ids.shape[1] < batches[1].input_ids.shape[1]
    moved = [batch.input_ids[batch.perturbable].tolist() for batch in batches]
    assert moved[0] == moved[1]
