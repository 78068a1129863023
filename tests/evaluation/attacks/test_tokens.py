"""Substitutions of numbers, against every one tried by hand."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.environments import WORLDS, expert_rows
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.tokens import (
    number_substitutions,
    sample_substitutions,
    substitution_radius,
    worst_substitution,
)
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, ROWS, TOKENIZER, copying, tokenizer_of, trained


@pytest.mark.parametrize("world", WORLDS)
def test_a_number_is_replaced_by_a_number_of_the_observations_and_nothing_else_changes(world):
    rows = expert_rows(world, 5, seed=1)
    tokenizer = tokenizer_of(rows)
    ids = encode_examples(tokenizer, rows, candidates=True)["input_ids"]
    contents = [row["prompt"][0]["content"] for row in rows]
    digits = {word for content in contents for word in content.split() if word.isdigit()}
    for row, substitutions in enumerate(number_substitutions(tokenizer, rows)):
        found = set()
        for position, token in substitutions:
            new = ids[row].clone()
            new[position] = token
            before, after = (tokenizer.decode(x).replace("<", " <") for x in (ids[row], new))
            pairs = list(zip(before.split(), after.split(), strict=True))
            ((old_word, new_word),) = [(b, a) for b, a in pairs if a != b]
            assert (old_word.isdigit() and new_word.isdigit()) and new_word in digits
            found.add((position, new_word))
        # All of them: each number of the observation by each other number.
        words = [word for word in contents[row].split() if word.isdigit()]
        assert len(found) == len(substitutions) == len(words) * (len(digits) - 1)


def test_numbers_outside_of_the_observation_stay():
    rows = [{**row, "prompt": [{"role": "system", "content": "at most 3"}, *row["prompt"]]} for row in COPYING_ROWS]
    ids = encode_examples(COPYING_TOKENIZER, rows, candidates=True)["input_ids"]
    plain = number_substitutions(COPYING_TOKENIZER, COPYING_ROWS)
    for row, substitutions in enumerate(number_substitutions(COPYING_TOKENIZER, rows)):
        assert len(substitutions) == len(plain[row]) == 2 * 3
        for position, _ in substitutions:
            prefix = COPYING_TOKENIZER.decode(ids[row, :position])
            assert prefix.endswith(("need", "owe"))


def test_observations_without_numbers_are_refused():
    row = COPYING_ROWS[0] | {"prompt": [{"role": "user", "content": "how many"}]}
    with pytest.raises(ValueError, match="finds no numbers to replace"):
        number_substitutions(COPYING_TOKENIZER, [row])


def test_trials_are_drawn_once_each():
    everything = [(position, token) for position in range(3) for token in range(4)]
    drawn = sample_substitutions(everything, 5, seed=0)
    assert len(set(drawn)) == len(drawn) == 5 and set(drawn) < set(everything)
    assert drawn == sample_substitutions(everything, 5, seed=0) != sample_substitutions(everything, 5, seed=1)
    assert sorted(sample_substitutions(everything, 100, seed=0)) == everything


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "tokenizer", "rows"),
    [(copying, COPYING_TOKENIZER, COPYING_ROWS), (copying, COPYING_TOKENIZER, COPYING_ROWS[:1] + COPYING_ROWS[5:7])],
)
def test_with_trials_enough_the_attack_is_an_exhaustive_search(agent, tokenizer, rows):
    agent = agent()
    batch = AgentBatch.from_inputs(encode_examples(tokenizer, rows, candidates=True), "prompt")
    target = Target(agent, batch)
    substitutions = number_substitutions(tokenizer, rows)
    rewritten = worst_substitution(target, [sample_substitutions(s, 1000, seed=2) for s in substitutions])
    costs = rewritten.outcome(rewritten.origin).cost
    embedding = agent.get_input_embeddings().weight
    for row, own in enumerate(substitutions):
        best_cost, best_ids = -1.0, None
        for position, token in [(0, int(batch.input_ids[row, 0])), *own]:
            ids = batch.input_ids[row].clone()
            ids[position] = token
            with torch.no_grad():
                logits = agent(input_ids=ids[None]).logits[0]
            column = batch.action_positions[row, batch.candidate_column[row]]
            chances = logits[column, batch.candidate_tokens[row]].softmax(dim=0)
            cost = float(chances @ batch.candidate_costs[row])
            if cost > best_cost:
                best_cost, best_ids = cost, ids
        assert float(costs[row]) == pytest.approx(best_cost, rel=1e-4)
        assert torch.equal(rewritten.batch.input_ids[row], best_ids)
        distance = (embedding[best_ids] - embedding[batch.input_ids[row]]).norm()
        assert float(substitution_radius(target, rewritten)[row]) == pytest.approx(float(distance), rel=1e-4)
    assert costs.mean() > target.outcome(target.origin).cost.mean() + 1


@pytest.mark.slow
def test_an_example_without_numbers_stays_as_it_is():
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS[:2], candidates=True), "prompt")
    target = Target(trained(), batch)
    everything = number_substitutions(TOKENIZER, ROWS)[0]
    rewritten = worst_substitution(target, [everything, []])
    assert torch.equal(rewritten.batch.input_ids[1], batch.input_ids[1])
    assert substitution_radius(target, rewritten)[1] == 0
