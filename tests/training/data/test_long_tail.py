"""A radius for each class: the formula, its limits, the class of a row, and the ball of each example in training."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aajr_hf.training.data.long_tail import class_of, radius_factors
from tests.support.tiny import dataset, one_step, tiny_model, trainer

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(1, 500), min_size=1, max_size=6)


@settings(max_examples=50)
@given(COUNTS, st.floats(0, 0.99))
@example({"one": 7, "other": 7}, 0.4)
def test_the_mean_factor_is_one_and_the_largest_class_has_the_least(counts, alpha):
    factors, total = radius_factors(counts, alpha), sum(counts.values())
    assert sum(counts[name] * factor for name, factor in factors.items()) / total == pytest.approx(1)
    largest = max(counts.values())
    for name, count in counts.items():
        if len(set(counts.values())) == 1:
            assert factors[name] == 1  # and not 0 / 0
        elif count == largest:
            assert factors[name] == pytest.approx(1 - alpha)
        else:
            assert factors[name] >= 1 - alpha


def test_the_formula_of_a_head_and_a_tail():
    factors = radius_factors({"head": 80, "body": 15, "tail": 5}, 0.4)
    body, tail = math.sqrt(math.log(80 / 15)), math.sqrt(math.log(80 / 5))
    mean = 0.15 * body + 0.05 * tail
    assert factors == pytest.approx({"head": 0.6, "body": 0.6 + 0.4 * body / mean, "tail": 0.6 + 0.4 * tail / mean})


def test_the_class_of_a_row():
    said = {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "take 2 via d"}],
    }
    assert class_of(said) == "take"
    assert class_of(said | {"actions": ["take 2 via d", "take 1 via d"]}) == "take 2"
    assert class_of(said | {"action": 7}) == "7" and class_of(said | {"kind": "x"}, "kind") == "x"
    call = {"type": "function", "function": {"name": "rain", "arguments": {}}}
    called = said | {"completion": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert class_of(called) == "rain"
    assert class_of({"messages": called["prompt"] + called["completion"]}) == "rain"
    assert class_of({"prompt": "hi", "completion": "take it"}) == "take"
    with pytest.raises(ValueError, match="`class_column`: the data have no column 'kind'"):
        class_of(said, "kind")


def test_each_example_has_the_ball_of_its_class(tmp_path):
    rows = dataset(16)
    run = trainer(tmp_path, data=rows, long_tail_alpha=0.5)
    counts = Counter(map(class_of, rows))
    assert len(set(counts.values())) > 1
    expected = [radius_factors(counts, 0.5)[class_of(row)] for row in rows]
    assert run.train_dataset["radius_factor"][:] == pytest.approx(expected)
    inputs = run.data_collator(list(run.train_dataset)[:4])
    ascents = []
    for found in (inputs, {name: value for name, value in inputs.items() if name != "radius_factor"}):
        system = run._system_loss(found, None)
        ascents.append(run._ascend(run.model, system, None))
    ours, plain = ascents
    assert torch.allclose(ours.ball.epsilon, plain.ball.epsilon * torch.tensor(expected[:4]), rtol=1e-6)
    first = (
        ours.trajectory.deltas[1].flatten(1).norm(dim=1) / plain.trajectory.deltas[1].flatten(1).norm(dim=1)
    ).tolist()
    assert first == pytest.approx(expected[:4], rel=1e-5)  # the step size, too


def same(left, right) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_with_alpha_zero_or_balanced_classes_nothing_changes(tmp_path):
    kinds = [{**row, "kind": i % 2} for i, row in enumerate(dataset(16))]
    plain, _ = one_step(tmp_path, tiny_model(), dataset(16))
    for alpha, column in ((0.0, "action"), (0.7, "kind")):
        gradient, _ = one_step(
            tmp_path, tiny_model(), Dataset.from_list(kinds), long_tail_alpha=alpha, class_column=column
        )
        assert same(gradient, plain)
    gradient, _ = one_step(tmp_path, tiny_model(), dataset(16), long_tail_alpha=0.7)
    assert not same(gradient, plain)


def test_documents_of_one_row_keep_their_balls(tmp_path):
    run = trainer(tmp_path, long_tail_alpha=0.5)
    row = {"input_ids": torch.tensor([[1, 2, 3, 4, 5]]), "labels": torch.tensor([[-100, 2, 3, -100, 5]])}
    row |= {"position_ids": torch.tensor([[0, 1, 2, 0, 1]]), "radius_factor": torch.tensor([0.5, 2.0])}
    batch = run._system_loss(row, None).batch
    assert batch.radius_factor.tolist() == [0.5, 2.0] and "radius_factor" not in batch.model_inputs()
    assert batch.select(torch.tensor([1])).radius_factor.tolist() == [2.0]


def test_streamed_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`long_tail_alpha` counts the rows"):
        trainer(tmp_path, data=dataset(16).to_iterable_dataset(), long_tail_alpha=0.3)
