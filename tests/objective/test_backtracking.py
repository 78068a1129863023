"""`step_size="auto"`: inequality 25 at every step of every example, and no move where none improves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from tests.support.policies import Linear, states

from .test_ascent import BALLS, Loss, ascend


def shortfall(trajectory, losses=None):
    """By how much a step misses `g(delta_{t+1}) >= g(delta_t) + ||d||^2 / (2 eta)`: (K, B), positive where it does."""
    losses = trajectory.losses if losses is None else losses
    moves = trajectory.deltas.diff(dim=0).flatten(2).square().sum(dim=2)
    return moves / (2 * trajectory.step_sizes) - losses.diff(dim=0)


@pytest.mark.slow
@given(st.integers(0, 2**31 - 1), st.sampled_from(BALLS), st.booleans(), st.sampled_from([0.1, 1.0, 10.0]))
def test_inequality_25_holds_at_every_step_of_every_example(seed, kind, masked, gain):
    torch.manual_seed(seed)
    loss, state = Loss(gain), states(4, 3, 4)
    mask = torch.rand(4, 3) < 0.7 if masked else None
    ball = PerturbationSet(torch.rand(4) * 3 + 0.01, *kind)
    trajectory = ascend(loss, state, ball, steps=6, step_size="auto", mask=mask)
    rounding = 16 * torch.finfo(torch.float64).eps * (1 + trajectory.losses[1:].abs())
    assert (shortfall(trajectory) <= rounding).all()
    assert (trajectory.losses.diff(dim=0) >= -rounding).all()


@pytest.mark.parametrize(("norm", "scope"), BALLS)
def test_the_ascent_climbs_and_its_steps_are_projected_gradient_steps(norm, scope):
    loss, state, ball = Loss(5.0), states(4, 3, 4), PerturbationSet(1.0, norm, scope)
    trajectory = ascend(loss, state, ball, steps=8, step_size="auto")
    assert (trajectory.losses[-1] > trajectory.losses[0] + 0.1).all()
    moved = trajectory.deltas.diff(dim=0).flatten(2).any(dim=2)
    assert moved.float().mean() > 0.5 and moved[0].all()
    eta = trajectory.step_sizes[..., None, None]
    for t in range(8):
        expected = ball.project(trajectory.deltas[t] + eta[t] * trajectory.gradients()[t])
        torch.testing.assert_close(trajectory.deltas[t + 1][moved[t]], expected[moved[t]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("norm", "scope"), BALLS)
def test_where_nothing_curves_three_steps_reach_the_boundary(norm, scope, masked):
    """Of a linear loss every step satisfies the inequality, in a space of any dimension and for a ball of any shape."""
    weight, state = states(2, 16, 48), torch.zeros(2, 16, 48, dtype=torch.float64)
    mask = torch.arange(16).expand(2, 16) < 9 if masked else None
    ball = PerturbationSet(0.5, norm, scope)
    trajectory = ascend(
        lambda x: (weight * x).flatten(1).sum(dim=1), state, ball, steps=3, step_size="auto", mask=mask
    )
    best = (weight * ball.project(1e9 * weight, mask)).flatten(1).sum(dim=1)
    assert (trajectory.losses[-1] > 0.97 * best).all()


def test_the_check_sees_a_step_that_is_too_long():
    """The same check fails for a fixed step far above what backtracking finds, so it is able to fail."""
    loss, state, ball = Loss(10.0), states(4, 3, 4), PerturbationSet(10.0)
    trajectory = ascend(loss, state, ball, steps=6, step_size="auto")
    long = ascend(loss, state, ball, steps=6, step_size=100 * trajectory.step_sizes.max(dim=0).values)
    assert (shortfall(long) > 1e-3).any()


def test_step_sizes_are_chosen_per_example():
    """On `-c/2 ||x - a||^2` inequality 25 holds if and only if eta <= 1/c: each example finds its own."""
    curvature = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)
    target = states(3, 3, 4)

    def loss(x):
        return -curvature / 2 * (x - target).flatten(1).square().sum(dim=1)

    trajectory = ascend(loss, torch.zeros(3, 3, 4).double(), PerturbationSet(1e3), steps=1, step_size="auto")
    ratio = trajectory.step_sizes[0] * curvature
    # The largest of a halving sequence: within a factor 2 of the bound.
    assert (ratio <= 1 + 1e-9).all() and (ratio > 0.5).all()
    assert (trajectory.losses[1] > trajectory.losses[0]).all()


def test_step_sizes_grow_again_where_the_curvature_falls():
    """On `log x` the curvature is 1/x^2: steps that start short at x = 0.01 become long, in few steps."""
    state = torch.full((1, 1), 0.01, dtype=torch.float64)
    trajectory = ascend(
        lambda x: x[:, 0].clamp_min(1e-9).log(), state, PerturbationSet(5.0), steps=20, step_size="auto"
    )
    assert (shortfall(trajectory) <= 1e-12).all()
    assert trajectory.step_sizes[-1] > 100 * trajectory.step_sizes[0]
    torch.testing.assert_close(trajectory.deltas[-1], torch.full((1, 1), 5.0).double(), rtol=1e-9, atol=0)


def test_a_large_step_is_not_given_up_for_a_difficult_neighbour():
    state = states(2, 3, 4)
    factor = torch.tensor([1.0, -1e4], dtype=torch.float64)

    def loss(x):
        return (x + 1).flatten(1).sum(dim=1) + factor.clamp_max(0) * x.flatten(1).square().sum(dim=1)

    both = ascend(loss, state, PerturbationSet(1.0), steps=1, step_size="auto")
    assert both.step_sizes[0, 0] > 1000 * both.step_sizes[0, 1]


def test_a_point_that_cannot_be_improved_is_left_as_it_is():
    """Example 0 starts in a kink where every step descends; example 1 climbs."""
    state = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    class Spike(torch.autograd.Function):
        """`-|x|`, with a gradient at the top that points somewhere."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return -x.abs().sum(dim=1)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad[:, None] * torch.where(x == 0, 1.0, -x.sign())

    trajectory = ascend(Spike.apply, state, PerturbationSet(0.5), step_size="auto")
    assert not trajectory.deltas[:, 0].any() and trajectory.losses[:, 0].eq(0).all()
    assert trajectory.deltas[1:, 1].flatten(1).any(dim=1).all()
    assert trajectory.losses[-1, 1] > trajectory.losses[0, 1]
    assert trajectory.gradient_norms[:, 0].gt(1).all()


def test_where_one_example_finds_no_step_the_others_are_last_evaluated_at_their_new_points():
    """Also where all are evaluated together, as under dropout: what is recorded of a point is recorded there."""
    state = torch.zeros(2, 2, dtype=torch.float64)
    seen, points = [], []

    def loss(x):
        seen.append(x.detach() - state)
        # The gradient of the second example points where its loss falls, by a constant that has none.
        rise = x.sum(dim=1) * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return rise - 2 * (rise - rise.detach()) * torch.tensor([0.0, 1.0], dtype=torch.float64)

    trajectory = ascend(
        loss,
        state,
        PerturbationSet(0.5),
        steps=2,
        step_size="auto",
        final_loss=False,
        on_point=lambda: points.append(seen[-1]),
    )
    assert trajectory.deltas[1, 0].any() and not trajectory.deltas[1, 1].any()
    torch.testing.assert_close(torch.stack(points), trajectory.deltas[:2])


def test_at_a_maximum_on_the_sphere_nothing_moves_any_more():
    """A linear loss is highest at epsilon times its unit gradient: the first step gets there."""
    policy = Linear(torch.randn(1, 12, dtype=torch.float64))
    trajectory = ascend(lambda x: policy(x)[:, 0], states(2, 3, 4), PerturbationSet(0.7), step_size="auto")
    best = 0.7 * (policy.weight / policy.weight.norm()).detach().reshape(1, 3, 4)
    for delta in trajectory.deltas[1:]:
        torch.testing.assert_close(delta, best.expand(2, 3, 4), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_steps_keep_everything_finite(dtype):
    """A linear loss accepts every step, so that eta doubles at each."""
    weight = torch.randn(12, dtype=dtype)
    trajectory = projected_gradient_ascent(
        lambda x: x.flatten(1) @ weight,
        states(2, 3, 4, dtype=dtype),
        PerturbationSet(0.5),
        steps=200,
        step_size="auto",
    )
    assert trajectory.deltas.isfinite().all() and trajectory.losses.isfinite().all()
    assert (trajectory.losses[-1] > trajectory.losses[0]).all()


def test_a_ball_of_radius_zero_stays_at_the_state():
    trajectory = ascend(Loss(), states(2, 3, 4), PerturbationSet(torch.tensor([0.0, 0.5])), step_size="auto")
    assert not trajectory.deltas[:, 0].any() and trajectory.deltas[1:, 1].any()
    assert all(value.isfinite().all() for value in vars(trajectory).values())


class Counting:
    """A loss that counts its evaluations, in whole batches, and offers parts of itself."""

    def __init__(self, loss_of):
        self.loss_of, self.forwards, self.points = loss_of, 0.0, 0

    def __call__(self, x):
        self.forwards += 1
        self.batch = len(x)
        return self.loss_of(torch.arange(len(x)))(x)

    def select(self, rows):
        def part(x):
            self.forwards += len(rows) / self.batch
            return self.loss_of(rows)(x)

        return part

    def accept(self):
        self.points += 1


def wavy(batch, seed=0):
    """Losses of unlike curvature, neither convex nor concave."""
    torch.manual_seed(seed)
    weights = (
        torch.randn(batch, 12, 12, dtype=torch.float64)
        * torch.logspace(-1, 1, batch, dtype=torch.float64)[:, None, None]
    )

    def loss_of(rows):
        return lambda x: torch.sin(torch.einsum("bij,bj->bi", weights[rows], x.flatten(1))).sum(dim=1)

    return loss_of


@pytest.mark.slow
@given(st.integers(0, 2**31 - 1), st.booleans())
def test_trying_some_examples_again_alone_changes_nothing(seed, masked):
    loss_of, state = wavy(6, seed), states(6, 3, 4)
    mask = torch.rand(6, 3) < 0.7 if masked else None
    together, apart = Counting(loss_of), Counting(loss_of)
    kwargs = {"steps": 5, "step_size": "auto", "mask": mask}
    one = ascend(together, state, PerturbationSet(1.0), **kwargs)
    other = ascend(apart, state, PerturbationSet(1.0), select=apart.select, on_point=apart.accept, **kwargs)
    for name, value in vars(one).items():
        torch.testing.assert_close(getattr(other, name), value, rtol=1e-9, atol=1e-12)
    # Gradients are those at the points, whichever trial they come from.
    for t in range(5):
        point = (state + other.deltas[t]).requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_of(torch.arange(6))(point).sum(), point)
        expected = gradient if mask is None else gradient * mask[..., None]
        torch.testing.assert_close(other.gradients()[t], expected, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(other.losses[t], loss_of(torch.arange(6))(point).detach())
    assert apart.points == 5 and apart.forwards <= together.forwards
    rounding = 16 * torch.finfo(torch.float64).eps * (1 + other.losses[1:].abs())
    assert (shortfall(other) <= rounding).all()


@pytest.mark.parametrize("steps", [3, 8])
def test_backtracking_costs_at_most_one_forward_a_step(steps):
    """A plain ascent evaluates K points and their gradients; the trials of this one are further forwards."""
    extra = []
    for seed in range(10):
        loss = Counting(wavy(32, seed))
        ascend(loss, states(32, 3, 4), PerturbationSet(1.0), steps=steps, step_size="auto", select=loss.select)
        extra.append((loss.forwards - steps) / steps)
    assert 0 < sum(extra) / len(extra) <= 1


def test_on_an_ill_conditioned_policy_fixed_steps_oscillate_and_these_do_not():
    """
    The cost of missing a target with a linear policy whose squared singular values span 1 to 1e5: a step that is right for
    the flat directions throws the steep one from side to side.
    """
    scales = torch.logspace(0, 2.5, 12, dtype=torch.float64)
    target = states(1, 3, 4)

    def loss(x):
        return -0.5 * (scales * (x - target).flatten(1)).square().sum(dim=1)

    start, ball = torch.zeros(1, 3, 4).double(), PerturbationSet(10.0)
    fixed = ascend(loss, start, ball, steps=40, step_size=1e-3)
    falls = fixed.losses.diff(dim=0) < 0
    steep = fixed.deltas[:, 0, 2, 3] - target[0, 2, 3]
    assert falls.any() and (steep[1:] * steep[:-1] < 0).float().mean() > 0.9
    auto = ascend(loss, start, ball, steps=40, step_size="auto")
    assert (auto.losses.diff(dim=0) >= 0).all() and auto.losses[-1] > fixed.losses[-1]
    # As many steps of the only fixed size that is safe leave more of the way.
    safe = ascend(loss, start, ball, steps=40, step_size=float(1 / scales.square().max()))
    assert (safe.losses.diff(dim=0) >= 0).all() and auto.losses[-1] > safe.losses[-1]
