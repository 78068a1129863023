"""The guard is its equation, and what its codes cannot tell apart, no reader of the cache can."""

from __future__ import annotations

import math

import pytest
import torch

from aajr_hf.guard.bound import total_variation
from aajr_hf.guard.guard import LEAST_SCALE, CacheGuard, cache_widths
from aajr_hf.training.policy.policy import fixed_seed

WIDTHS = [(4, 6), (2, 2)]


def states(rows: int = 2, tokens: int = 5, dtype=torch.float32):
    def draw(heads):
        return torch.randn(rows, heads, tokens, 2, dtype=dtype)

    return [(draw(2), draw(3)), (draw(1), draw(1))]


def test_the_guard_is_its_equation():
    guard, given = CacheGuard(WIDTHS, 3), states()
    with fixed_seed(torch.device("cpu"), 0):
        passed = guard(given)
    with fixed_seed(torch.device("cpu"), 0):
        noise = torch.randn(2, 5, 3)
    first, last, third, fourth = guard.encoder[0], guard.encoder[2], guard.decoder[0], guard.decoder[2]
    gelu = torch.nn.functional.gelu
    for row in range(2):
        for token in range(5):
            flat = [one[row, :, token].flatten() for pair in given for one in pair]
            seen = torch.cat([torch.nn.functional.layer_norm(one, one.shape) for one in flat])
            mean, scale = (last.weight @ gelu(first.weight @ seen + first.bias) + last.bias).chunk(2)
            code = mean + (scale.exp().log1p() + LEAST_SCALE) * noise[row, token]
            made = fourth.weight @ gelu(third.weight @ code + third.bias) + fourth.bias
            after = torch.cat([one[row, :, token].flatten() for pair in passed for one in pair])
            torch.testing.assert_close(after, made)


def test_the_noise_is_drawn_anew_in_each_call():
    guard, given = CacheGuard(WIDTHS, 3), states()
    assert not torch.equal(guard(given)[0][0], guard(given)[0][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_peer_gets_has_the_shapes_and_the_type_of_what_was_written(dtype):
    given = states(dtype=dtype)
    for before, after in zip(given, CacheGuard(WIDTHS, 3)(given), strict=True):
        for old, new in zip(before, after, strict=True):
            assert new.shape == old.shape and new.dtype == dtype and not torch.equal(new, old)


def test_codes_that_do_not_look_at_the_message_erase_it_to_the_bit():
    guard = CacheGuard(WIDTHS, 3)
    torch.nn.init.zeros_(guard.encoder[0].weight)
    one, other, mask = states(), states(), torch.ones(2, 5)
    assert guard.divergence(one, other, mask).tolist() == [0.0, 0.0]
    with fixed_seed(torch.device("cpu"), 0):
        passed = guard(one)
    with fixed_seed(torch.device("cpu"), 0):
        again = guard(other)
    assert all(torch.equal(a, b) for x, y in zip(passed, again, strict=True) for a, b in zip(x, y, strict=True))


def test_the_divergence_is_that_of_gaussians_over_the_tokens_of_the_mask():
    guard, one, other = CacheGuard(WIDTHS, 3).double(), states(dtype=torch.float64), states(dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with torch.no_grad():
        p, q = guard.codes(one), guard.codes(other)
    expected = torch.zeros(2, dtype=torch.float64)
    for row, token in mask.nonzero().tolist():
        for i in range(3):
            m, s, n, t = (float(x[row, token, i]) for x in (p.mean, p.stddev, q.mean, q.stddev))
            expected[row] += math.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - 0.5
    torch.testing.assert_close(guard.divergence(one, other, mask), expected)
    assert expected.min() > 0


def test_small_divergences_are_not_rounded_away():
    guard, one = CacheGuard(WIDTHS, 8), states(rows=50)
    other = [tuple(x + 1e-4 * torch.randn_like(x) for x in pair) for pair in one]
    mask = torch.ones(50, 5)
    found = guard.divergence(one, other, mask)
    exact = guard.double().divergence(
        *([tuple(x.double() for x in pair) for pair in each] for each in (one, other)), mask
    )
    assert exact.min() > 0 and exact.median() < 1e-6
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.5, 1.0, 3.0])
def test_the_bound_holds_for_the_best_decoder_and_is_near(shift):
    # Two messages whose codes are unit Gaussians at 0 and at the shift: the best decoder compares with the middle, so the
    # total variation is 2 Phi(shift / 2) - 1.
    best = math.erf(shift / 2 / 2**0.5)
    bound = float(total_variation(torch.tensor(shift**2 / 2, dtype=torch.float64)))
    assert best <= bound <= 1.31 * best
    assert bound <= 1


def test_messages_that_are_far_apart_are_told_apart_surely():
    assert total_variation(torch.tensor([0.0, 1e6])).tolist() == [0.0, 1.0]


def test_a_guard_of_another_shape_is_refused(tiny_causal_lm):
    agent = tiny_causal_lm("llama")
    CacheGuard(cache_widths(agent)).check_fits(agent)
    with pytest.raises(ValueError, match=r"caches of 1 layers of widths 8\+8, but those of the model have 2 layers"):
        CacheGuard([(8, 8)], 3).check_fits(agent)
    with pytest.raises(ValueError, match="`bottleneck` must be at least 1"):
        CacheGuard([(8, 8)], 0)
