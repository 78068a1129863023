"""The ball: membership, exact and idempotent projection, masks, and random starts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.objective import PerturbationSet
from tests.support.policies import naive_projection

NORMS = ("l2", "linf")
SCOPES = ("sequence", "token")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


@st.composite
def cases(draw, scopes=SCOPES, max_scale=3):
    """A ball, perturbations inside and outside of it, and a mask or none."""
    seed = draw(st.integers(0, 2**31 - 1))
    torch.manual_seed(seed)
    shape = [draw(st.integers(1, n)) for n in (4, 5, 6)]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    epsilon = draw(st.floats(1e-3, 1e3))
    if draw(st.booleans()):
        epsilon = epsilon * torch.rand(shape[0], dtype=dtype)
        epsilon[torch.rand(shape[0]) < 0.2] = 0
    ball = PerturbationSet(epsilon, draw(st.sampled_from(NORMS)), draw(st.sampled_from(scopes)))
    # Vectors of very different lengths, some of them zero, from far inside to far outside.
    scale = 10 ** (draw(st.floats(-3, max_scale)) + torch.randn(*shape[:2], 1, dtype=dtype))
    delta = torch.randn(*shape, dtype=dtype) * scale * (torch.rand(*shape[:2], 1) > 0.1)
    dimensions = draw(st.sampled_from([None, 1, 2, 3]))
    mask = None if dimensions is None else torch.rand(*shape[:dimensions]) < 0.6
    return ball, delta, mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("norm", "scope"), [(n, s) for n in NORMS for s in SCOPES])
def test_the_extent_is_half_of_the_largest_distance_between_two_points(norm, scope, masked):
    ball, free = PerturbationSet(0.3, norm, scope), torch.rand(3, 5, 4) < 0.6 if masked else torch.ones(3, 5, 4) > 0
    free[0] = False
    ones = torch.ones(3, 5, 4, dtype=torch.float64)
    # The farthest points lie opposite each other, along a direction with as much of every factor as of any other.
    farthest = ball.project(1e6 * ones, free).flatten(1).norm(dim=1)
    extent = 0.3 * ball.extent(ones, free if masked else None)
    torch.testing.assert_close(extent[1:], farthest[1:], rtol=1e-9, atol=0)
    assert torch.isfinite(extent).all() and (extent > 0).all()


def radii(ball: PerturbationSet, delta: torch.Tensor) -> torch.Tensor:
    """epsilon in the dtype of delta and the shape of the ball's norms."""
    epsilon = torch.as_tensor(ball.epsilon, dtype=delta.dtype).expand(delta.shape[0])
    return epsilon[:, None].expand(delta.shape[:2]) if ball.scope == "token" else epsilon


def blow_up(mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """The mask, element by element."""
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim)).expand_as(like)


@given(cases())
def test_projection_lands_in_the_ball(case):
    ball, delta, mask = case
    projected = ball.project(delta, mask)
    assert projected.dtype == delta.dtype and projected.shape == delta.shape
    assert (ball.norms(projected) <= radii(ball, delta)).all()


@given(cases())
def test_norms_are_those_of_each_example_or_token(case):
    ball, delta, _ = case
    vectors = delta if ball.scope == "token" else delta.flatten(1)
    expected = vectors.abs().amax(-1) if ball.norm == "linf" else vectors.double().square().sum(-1).sqrt()
    torch.testing.assert_close(ball.norms(delta).double(), expected.double(), rtol=1e-6, atol=0)


@given(cases())
def test_projection_is_idempotent_to_the_bit(case):
    ball, delta, mask = case
    once = ball.project(delta, mask)
    assert torch.equal(ball.project(once, mask), once)


@given(cases())
def test_projection_leaves_inner_points_alone_to_the_bit(case):
    ball, delta, mask = case
    delta = torch.where(blow_up(mask, delta), delta, 0)
    norms, limit = ball.norms(delta), radii(ball, delta)
    rows = (norms <= limit).reshape(*norms.shape, *[1] * (delta.ndim - norms.ndim)).expand_as(delta)
    projected = ball.project(delta, mask)
    assert torch.equal(projected[rows], delta[rows])
    # Also for an example as a whole: shrunk by half from the boundary, it is inside.
    inner = projected / 2
    assert torch.equal(ball.project(inner, mask), inner)


@given(cases())
def test_projection_is_the_nearest_point(case):
    """
    p is the projection of x onto a convex set if and only if <x - p, q - p> <= 0 for all its points q. The largest
    <x - p, q> over the ball is epsilon times the dual norm, so all points q are compared at once; random ones, by
    their distances, besides.
    """
    ball, delta, mask = case
    delta = torch.where(blow_up(mask, delta), delta, 0)
    projected = ball.project(delta, mask)
    gap = delta - projected
    vectors = (lambda x: x) if ball.scope == "token" else (lambda x: x.flatten(1))
    dual = vectors(gap).abs().sum(-1) if ball.norm == "linf" else vectors(gap).norm(dim=-1)
    limit = radii(ball, delta)
    slack = TOLERANCE[delta.dtype] * limit * dual
    assert (limit * dual - (vectors(gap) * vectors(projected)).sum(-1) <= slack).all()

    distance = gap.flatten(1).norm(dim=1)
    for _ in range(5):
        other = ball.sample(delta, mask)
        assert (distance <= (delta - other).flatten(1).norm(dim=1) * (1 + TOLERANCE[delta.dtype])).all()


@given(cases())
def test_projection_equals_the_naive_one(case):
    ball, delta, mask = case
    epsilon = torch.as_tensor(ball.epsilon, dtype=delta.dtype).expand(delta.shape[0])
    masked = torch.where(blow_up(mask, delta), delta, 0)
    expected = torch.stack([naive_projection(x, ball, float(e)) for x, e in zip(masked, epsilon, strict=True)])
    torch.testing.assert_close(ball.project(delta, mask), expected, rtol=TOLERANCE[delta.dtype], atol=0)


@given(cases())
def test_masked_entries_become_exactly_zero(case):
    ball, delta, mask = case
    assert (ball.project(delta, mask)[~blow_up(mask, delta)] == 0).all()


@given(cases())
def test_sample_stays_in_the_ball_and_respects_the_mask(case):
    ball, delta, mask = case
    sample = ball.sample(delta, mask)
    assert sample.dtype == delta.dtype and sample.shape == delta.shape
    assert (ball.norms(sample) <= radii(ball, delta)).all()
    assert (sample[~blow_up(mask, delta)] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("masked", [False, True])
def test_sample_has_every_size_and_sign(norm, scope, masked):
    ball = PerturbationSet(torch.linspace(0.5, 2, 2000), norm, scope)
    mask = torch.tensor([False, True, False]).expand(2000, 3) if masked else None
    sample = ball.sample(torch.zeros(2000, 3, 4), mask)
    sizes = ball.norms(sample) / radii(ball, sample)
    if masked and scope == "token":
        sizes = sizes[mask]
    # Sizes uniform in [0, 1]: mean 1/2 and quantiles of at least 2,000 draws within 5 standard errors.
    assert abs(sizes.mean() - 0.5) < 5 / (12 * 2000) ** 0.5
    assert sizes.min() < 0.01 and sizes.max() > 0.99
    assert abs(sample.sign().mean()) < 5 / 2000**0.5


def test_sample_draws_from_the_global_generator():
    ball, like = PerturbationSet(1.0), torch.zeros(2, 3, 4)
    torch.manual_seed(3)
    first, second = ball.sample(like), ball.sample(like)
    torch.manual_seed(3)
    assert torch.equal(ball.sample(like), first) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scope", SCOPES)
def test_low_precision_is_projected_as_exactly_as_it_can_be_stored(dtype, scope):
    ball = PerturbationSet(torch.linspace(0.05, 0.5, 64), "l2", scope)
    delta = torch.randn(64, 20, 32, dtype=dtype)
    projected = ball.project(delta)
    assert projected.dtype == dtype
    assert torch.equal(ball.project(projected), projected)
    sizes = ball.norms(projected) / radii(ball, projected.float())
    assert (sizes <= 1).all() and (sizes > 1 - 2 * torch.finfo(dtype).eps).all()
    sample = ball.sample(delta)
    assert sample.dtype == dtype and (ball.norms(sample) <= radii(ball, sample.float())).all()


def test_projection_of_many_coordinates_stays_idempotent():
    ball, delta = PerturbationSet(0.3), torch.randn(2, 512, 1024)
    once = ball.project(delta)
    assert torch.equal(ball.project(once), once)
    torch.testing.assert_close(once.double().flatten(1).norm(dim=1), torch.full((2,), 0.3).double(), rtol=1e-5, atol=0)


def test_an_undefined_perturbation_is_not_repaired_in_silence():
    delta = torch.tensor([[[float("nan"), 1.0]]])
    assert all(PerturbationSet(0.5, norm).project(delta).isnan().any() for norm in NORMS)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"epsilon": -1e-9}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"epsilon": torch.tensor([1.0, -1.0])}, "epsilon"),
        ({"epsilon": 1.0, "norm": "l1"}, "norm"),
        ({"epsilon": 1.0, "scope": "batch"}, "scope"),
    ],
)
def test_bad_arguments_name_themselves(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        PerturbationSet(**arguments)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 3)])
def test_an_epsilon_that_is_not_one_per_example_is_refused(norm, shape):
    ball = PerturbationSet(torch.ones(shape), norm)
    for call in (ball.project, ball.sample):
        with pytest.raises(ValueError, match="`epsilon`"):
            call(torch.ones(2 if len(shape) == 1 else shape[0], 3, 4))


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 5), (2, 3, 4, 1)])
def test_a_mask_that_is_no_prefix_of_the_shape_is_refused(shape):
    with pytest.raises(ValueError, match="`mask`"):
        PerturbationSet(1.0).project(torch.ones(2, 3, 4), torch.ones(shape, dtype=torch.bool))
