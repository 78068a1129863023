"""What is learnt of one half of the rows is tried on the other half, and on nothing else."""

from __future__ import annotations

import functools

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.attacks.lessons import LOSS, PREDICTED, UNIVERSAL, Lessons
from aajr_hf.evaluation.attacks.suite import MAIN
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.policy.policy import frozen_parameters
from tests.support.small_agents import TOKENIZER, trained

# Of unequal lengths, in both halves.
ROWS = [row for agents in (3, 3, 2, 2) for row in expert_rows("congestion", 2, seed=agents, agents=agents)]


@functools.cache
def agent():
    return trained().double()


def target_of(rows):
    batch = read_batch(TOKENIZER, rows, "prompt", agent().device)
    return Target(agent(), batch, ThreatModel(epsilon=0.3))


def learnt(rows, batch_size=128):
    """Directions of each row on its own tokens, and the lessons."""
    with frozen_parameters(agent()):
        lessons = Lessons(
            lambda numbers: target_of([rows[number] for number in numbers]), len(rows), batch_size, (1.0,)
        )
        found = []
        for number, row in enumerate(rows):
            target = target_of([row])
            found.append({name: direction[0] for name, direction in lessons.on(target, [number], 1.0).items()})
    return found, lessons


def test_the_loss_is_that_of_the_main_attack():
    assert LOSS == MAIN


@pytest.mark.slow
def test_a_row_has_no_part_in_what_it_is_attacked_with():
    first, lessons = learnt(ROWS)
    changed = [*ROWS[:2], expert_rows("congestion", 1, seed=77, agents=3)[0], *ROWS[3:]]
    second, _ = learnt(changed)
    for number in range(len(ROWS)):
        if number == 2:
            continue
        for name in (UNIVERSAL, PREDICTED):
            one, other = first[number][name], second[number][name]
            assert torch.equal(one, other) == (number % 2 == 0), (number, name)
    assert lessons.examples == len(ROWS) and lessons.agreement.examples == len(ROWS)


@pytest.mark.slow
def test_batches_do_not_matter():
    whole, one = learnt(ROWS)
    small, other = learnt(ROWS, batch_size=3)
    for a, b in zip(whole, small, strict=True):
        assert torch.allclose(a[UNIVERSAL], b[UNIVERSAL], atol=1e-8)
        assert torch.allclose(a[PREDICTED], b[PREDICTED], rtol=1e-4, atol=1e-6 * float(a[PREDICTED].abs().max()))
    assert list(one.energy.values()) == pytest.approx(list(other.energy.values()), rel=1e-6)
    assert one.agreement == pytest.approx(other.agreement, rel=1e-4)


def test_the_energy_grows_with_the_number_of_directions():
    _, lessons = learnt(ROWS)
    shares = list(lessons.energy.values())
    # Three steps from each of four rows of a half.
    assert list(lessons.energy) == [1, 2, 4, 8] and shares == sorted(shares) and 0 < shares[0] < shares[-1] <= 100
    target = target_of(ROWS)
    assert lessons.dimensions == int(target.batch.perturbable.sum(dim=1).max()) * target.origin.shape[-1]


def test_gradients_are_counted(monkeypatch):
    counted = []
    backward = torch.autograd.grad

    def grad(outputs, inputs, *args, **kwargs):
        inputs_ = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        if inputs_.shape[-1] == target_of(ROWS[:1]).origin.shape[-1]:
            counted.append(len(inputs_))
        return backward(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    _, lessons = learnt(ROWS)
    assert lessons.gradients == sum(counted)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_with_too_few_rows_there_is_nothing_to_try(rows):
    found, lessons = learnt(ROWS[:rows])
    for number in range(rows):
        others = sum(1 for other in range(rows) if other % 2 != number % 2)
        assert bool(found[number][UNIVERSAL].any()) == (others >= 1)
        assert bool(found[number][PREDICTED].any()) == (others >= 2)
    assert bool(lessons.energy) == (rows > 1)
    assert (lessons.agreement is None) == (rows < 3)
