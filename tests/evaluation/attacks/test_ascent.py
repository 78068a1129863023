"""APGD against its paper's algorithm written out with loops, and against maxima that are known."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from aajr_hf.evaluation.attacks import ascent
from aajr_hf.evaluation.attacks.ascent import Ascent, ascend
from aajr_hf.objective import PerturbationSet
from tests.support.known_policies import (
    EXAMPLES,
    LENGTH,
    WIDTH,
    Visited,
    directions,
    linear,
    make_search,
    make_target,
    margins,
    reach,
)

# So far from wrong that no example is ever left.
NEVER = 1000.0


def written_out(steps):
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), and w_j the next whole number of p_j N."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return [math.ceil(share * steps) for share in p[1:] if share <= 1]


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 40, 100, 1000])
def test_checkpoints_are_the_papers(steps):
    assert ascent._checkpoints(steps) == written_out(steps)
    if steps == 100:
        assert written_out(steps) == [22, 41, 57, 70, 80, 87, 93, 99]


def bumpy(seed=0, sharp=3.0):
    """A smooth function of two numbers at one position with several maxima, another for each example."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(EXAMPLES, 16, 2, dtype=torch.float64, generator=generator) * sharp
    shift = torch.randn(EXAMPLES, 16, dtype=torch.float64, generator=generator) * sharp
    second = torch.randn(EXAMPLES, 16, dtype=torch.float64, generator=generator)

    def value(points, numbers):
        hidden = (torch.einsum("nhc,nc->nh", first[numbers], points) + shift[numbers]).tanh()
        return (hidden * second[numbers]).sum(dim=1)

    return value


def on_two_numbers(value, **threat):
    """The target whose margin is this function of the first two numbers at one position, far below zero."""
    target = make_target(lambda delta, numbers: value(delta[:, 2, :2], numbers) - NEVER, **threat)
    target.batch.perturbable[:, [1, 3]] = False
    return target


def apgd(value, radius, steps, norm="l2", dim=(LENGTH, WIDTH)):
    """The algorithm of the paper for one example: all points it visits, their values, and how often a step size was halved. The momentum is 0.75, and rho is 0.75."""

    def gradient_at(x):
        x = x.clone().requires_grad_(True)
        f = value(x)
        (gradient,) = torch.autograd.grad(f, x)
        return float(f.detach()), gradient

    def project(x):
        if norm == "linf":
            return x.clamp(-radius, radius)
        return x if x.norm() <= radius else x * (radius / x.norm())

    def step(x, gradient, eta):
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        return project(x + eta * direction)

    x0 = torch.zeros(dim, dtype=torch.float64)
    eta, (f0, g0) = 2 * radius, gradient_at(x0)
    visited, values = [x0], [f0]
    x1 = step(x0, g0, eta)
    f1, g1 = gradient_at(x1)
    visited.append(x1)
    values.append(f1)
    best, f_best, g_best = (x1, f1, g1) if f1 > f0 else (x0, f0, g0)
    previous, x, f, g = x0, x1, f1, g1
    rises, checkpoints, last, f_then, halved = int(f1 > f0), written_out(steps), 0, f0, False
    halvings = 0
    for k in range(1, steps + 1):
        if k > 1:
            z = step(x, g, eta)
            new = project(x + 0.75 * (z - x) + 0.25 * (x - previous))
            previous, f_old = x, f
            x = new
            f, g = gradient_at(x)
            visited.append(x)
            values.append(f)
            rises += f > f_old
            if f > f_best:
                best, f_best, g_best = x, f, g
        if k in checkpoints:
            stalled = rises < 0.75 * (k - last) or (not halved and f_best == f_then)
            if stalled:
                eta /= 2
                halvings += 1
                previous = x = best
                f, g = f_best, g_best
            halved, f_then, rises, last = stalled, f_best, 0, k
    return visited, values, halvings


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_point_is_the_papers(norm, monkeypatch):
    value = bumpy()
    target = on_two_numbers(value, perturbation_norm=norm)
    visited = Visited(monkeypatch)
    radius = torch.linspace(0.3, 3.0, EXAMPLES, dtype=torch.float64)
    search = make_search(target, radius, steps=20)
    ascend(search, "margin", torch.zeros_like(target.origin), to_the_end=True)
    assert len(visited.points) == 21
    halvings = []
    for number in range(EXAMPLES):
        of_this = lambda x, number=number: value(x[None, 2, :2], torch.tensor([number]))[0]  # noqa: E731
        points, values, halved = apgd(of_this, float(radius[number]), 20, norm)
        for (_, delta, _), point in zip(visited.points, points, strict=True):
            assert torch.allclose(delta[number], point, atol=1e-7)
        assert float(search.kept[number]) + NEVER == pytest.approx(max(values), abs=1e-9)
        halvings.append(halved)
    # Not because nothing stalls, or everything does.
    assert len(set(halvings)) > 2 and min(halvings) < 7 <= max(halvings)


def test_the_size_is_halved_where_the_loss_overshoots_and_kept_where_it_rises(monkeypatch):
    peak = 0.3

    def value(points, numbers):
        # Even examples have a peak near the start, odd ones rise all the way.
        return torch.where(numbers % 2 == 0, -(points[:, 0] - peak).abs(), points[:, 0]) + 0 * points[:, 1]

    target, sizes = on_two_numbers(value), []
    adapt = ascent._adapt
    monkeypatch.setattr(
        ascent, "_adapt", lambda climbers, steps: adapt(climbers, steps) or sizes.append(climbers.size)
    )
    search = make_search(target, torch.full((EXAMPLES,), 2.0, dtype=torch.float64), steps=100)
    ascend(search, "margin", torch.zeros_like(target.origin), to_the_end=True)
    sizes = torch.stack(sizes)
    assert len(sizes) == 8 and (sizes.diff(dim=0) <= 0).all()
    assert (sizes[-1, ::2] <= 4.0 / 2**6).all()
    values = search.kept + NEVER
    assert (values[::2] > -0.05).all() and torch.allclose(values[1::2], torch.tensor(2.0, dtype=torch.float64))
    assert ((search.delta[::2, 2, 0] - peak).abs() < 0.05).all()


def test_the_maximum_of_a_linear_loss_is_found_from_any_start():
    target = make_target(linear(directions(), margins()))
    most = reach(directions(), target.batch, "l2", "sequence")
    radius = torch.full((EXAMPLES,), 0.01, dtype=torch.float64)
    for restart in (0, 1, 5):
        search = make_search(target, radius, steps=20)
        Ascent("", "margin", restart=restart)(search)
        assert torch.allclose(search.kept, 0.01 * most - margins(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_restarts_come_near_the_best_of_a_grid(norm):
    value = bumpy(1, sharp=2.0)
    target, line = on_two_numbers(value, perturbation_norm=norm), torch.linspace(-1, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    grid = grid[grid.norm(dim=1) <= 1] if norm == "l2" else grid
    best = torch.stack([value(grid, torch.full((len(grid),), number)).max() for number in range(EXAMPLES)])
    start = value(torch.zeros(EXAMPLES, 2, dtype=torch.float64), torch.arange(EXAMPLES))
    gaps = []
    for restarts in (1, 20):
        search = make_search(target, torch.ones(EXAMPLES, dtype=torch.float64), steps=40, restarts=restarts)
        Ascent("", "margin")(search)
        gaps.append((best - search.kept - NEVER) / (best - start))
    assert gaps[1].max() < 0.05 and gaps[0].max() > gaps[1].max()


def test_a_broken_example_is_left_once_it_is_settled_and_never_where_the_loss_itself_is_wanted(monkeypatch):
    target = make_target(linear(directions(), margins()))
    radius = 100 * margins() / reach(directions(), target.batch, "l2", "sequence")
    counts = {}
    for name, attack in {"left": Ascent("", "margin"), "whole": Ascent("", "margin", every_example=True)}.items():
        search = make_search(target, radius, steps=10)
        attack(search)
        assert search.broken.all() and (search.sampled < 0.01).all()
        counts[name] = search.gradients
    # The first step already crosses the ball.
    assert counts == {"left": 2 * EXAMPLES, "whole": 11 * EXAMPLES}
    # What is broken by a hair is gone on with: sampling may still give the right answer.
    search = make_search(target, 1.02 * radius / 100, steps=10)
    Ascent("", "margin")(search)
    assert search.broken.all() and (search.sampled > 0.01).all() and search.gradients == 11 * EXAMPLES
    assert make_search(target, radius, settled=0.0).unsettled().all()


def test_the_start_is_projected():
    target = make_target(linear(directions(), margins() + NEVER))
    search = make_search(target, torch.full((EXAMPLES,), 0.5, dtype=torch.float64), steps=1)
    ascend(search, "margin", 100 * torch.ones_like(target.origin))
    ball = PerturbationSet(search.ball.epsilon)
    assert (ball.norms(search.delta) <= 0.5).all() and (search.delta[~target.batch.perturbable] == 0).all()
