"""Attacks on plain functions: against formulas, and every point tried."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.evaluation.attack import random_worst_case, worst_case
from aajr_hf.objective import PerturbationSet, projected_gradient_ascent, random_unit_direction

POLICY = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()


def test_the_attack_keeps_the_best_point_it_has_seen():
    # A loss whose ascent overshoots: the last iterate of a large step is worse than one on the way.
    state = torch.zeros(3, 2, dtype=torch.float64)

    def loss(x):
        return -(x[:, 0] - 0.3).abs() + 0.01 * x[:, 1]

    ball = PerturbationSet(torch.full((3,), 2.0, dtype=torch.float64))
    mask = torch.ones(3, 2)
    delta, value = worst_case(loss, state, ball, mask=mask, steps=7, restarts=1)
    assert torch.equal(loss(delta), value)
    torch.manual_seed(0)
    _, more = worst_case(loss, state, ball, mask=mask, steps=7, restarts=5)
    assert (more >= value).all() and (more > value).any()
    assert (ball.norms(delta) <= 2).all()


def test_the_attack_finds_the_maximum_of_a_linear_loss():
    direction = torch.tensor([3.0, 4.0])
    ball = PerturbationSet(torch.tensor([0.5, 2.0]))
    _, value = worst_case(
        lambda x: x @ direction, torch.zeros(2, 2), ball, mask=torch.ones(2, 2), steps=20, restarts=1
    )
    assert value.tolist() == pytest.approx([2.5, 10.0], rel=1e-4)


@pytest.fixture
def bumpy():
    """A smooth loss of two numbers with several maxima."""
    generator = torch.Generator().manual_seed(0)
    for parameter in POLICY.parameters():
        parameter.data.normal_(std=3.0, generator=generator)
    return lambda x: POLICY(x).squeeze(-1)


def test_the_attack_keeps_each_examples_best_iterate_of_all_restarts(bumpy):
    state = torch.randn(12, 2, dtype=torch.float64)
    ball, mask = PerturbationSet(torch.full((12,), 1.5, dtype=torch.float64)), torch.ones(12, 2)
    torch.manual_seed(3)
    delta, loss = worst_case(bumpy, state, ball, mask=mask, steps=6, restarts=4)
    torch.manual_seed(3)
    visited = []
    for restart in range(4):
        start = None if restart == 0 else ball.sample(state, mask)
        size = 2.5 * ball.epsilon / 6
        visited += projected_gradient_ascent(
            bumpy, state, ball, steps=6, step_size=size, step_rule="normalized", mask=mask, start=start
        ).deltas
    values = torch.stack([bumpy(state + point) for point in visited])
    best = values.argmax(dim=0)
    assert len(set(best.tolist())) > 4  # not the last ones by chance
    assert torch.equal(loss, values.max(dim=0).values)
    assert torch.equal(delta, torch.stack(visited)[best, torch.arange(12)])


def test_the_attack_comes_near_the_best_of_a_grid(bumpy):
    state = torch.randn(5, 2, dtype=torch.float64)
    ball = PerturbationSet(torch.full((5,), 1.0, dtype=torch.float64))
    line = torch.linspace(-1, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    grid = grid[grid.norm(dim=1) <= 1]
    best = torch.stack([bumpy(s + grid).max() for s in state])
    _, loss = worst_case(bumpy, state, ball, mask=torch.ones(5, 2), steps=40, restarts=10)
    span = best - bumpy(state)
    assert ((best - loss) / span).abs().max() < 0.05


def test_random_points_of_a_linear_loss_stay_below_its_maximum():
    direction, radius = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.5, 2.0])
    state, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 0], [1, 1, 0]])

    def loss(x):
        return x @ direction

    torch.manual_seed(1)
    delta, value = random_worst_case(loss, state, PerturbationSet(radius), mask=mask, points=7)
    torch.manual_seed(1)
    drawn = torch.stack([random_unit_direction(state, mask) * radius[:, None] for _ in range(7)])
    assert value.tolist() == pytest.approx((drawn @ direction).max(dim=0).values.tolist(), rel=1e-5)
    assert delta.norm(dim=1).tolist() == pytest.approx(radius.tolist(), rel=1e-5)
    assert (delta[:, 2] == 0).all() and torch.equal(loss(delta), value)
    # The maximum is radius * ||direction||, and PGA reaches it.
    _, pga = worst_case(loss, state, PerturbationSet(radius), mask=mask, steps=20, restarts=1)
    assert pga.tolist() == pytest.approx([2.5, 10.0], rel=1e-4)
    assert (value < pga).all()
