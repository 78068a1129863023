"""One perturbation for all prompts: found where it is known, right for prompts of any length, worse than one's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aajr_hf.evaluation.attacks import universal
from aajr_hf.evaluation.attacks.alignment import aligned, placed
from aajr_hf.evaluation.attacks.energy import energy_by_rank
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.universal import learn_universal
from tests.support.known_policies import EXAMPLES, WIDTH, directions, linear, make_search, make_target, margins, reach


def place_by_hand(vectors, mask):
    """The last vector on the last token of the mask, and so on towards the beginning."""
    found = torch.zeros(len(mask), mask.shape[1], vectors.shape[-1], dtype=vectors.dtype)
    for row in range(len(mask)):
        tokens = [token for token in range(mask.shape[1]) if mask[row, token]]
        for vector, token in zip(reversed(list(vectors[row])), reversed(tokens), strict=False):
            found[row, token] = vector
    return found


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_prompts_are_aligned_at_their_last_token(masks, length):
    mask = torch.tensor(masks)
    vectors = torch.randn(len(mask), length, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(placed(vectors, mask), place_by_hand(vectors, mask))
    # And back: what has a place is the same, the rest is zero.
    kept = torch.arange(length)[None] >= length - mask.sum(dim=1, keepdim=True)
    assert torch.equal(aligned(placed(vectors, mask), mask, length), vectors * kept[..., None])
    values = torch.randn(*mask.shape, 3)
    assert torch.equal(placed(aligned(values, mask, 6), mask), values * mask[..., None])


def shared_normals(spread, seed=3):
    """Normals that are one vector for all prompts, aligned at the last token, and this much of each prompt's own."""
    target = make_target(linear(directions(), margins()))
    mask = target.batch.perturbable
    one = torch.randn(3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return one / one.norm(), placed(one.expand(EXAMPLES, -1, -1), mask) / one.norm() + spread * directions()


def test_of_linear_policies_with_one_normal_the_universal_perturbation_is_the_worst(monkeypatch):
    one, normals = shared_normals(0.0)
    target = make_target(linear(normals, margins()))
    learnt = learn_universal([target.select(torch.arange(1, EXAMPLES, 2))], "nll")
    # Where all prompts of the half have all three tokens.
    assert learnt.longest == (3,) and torch.allclose(learnt.directions[0], one, atol=1e-9)
    radius = margins() / reach(normals, target.batch, "l2", "sequence")
    for factor, broken in ((0.999, False), (1.001, True)):
        search = make_search(target, factor * radius, learnt={"universal": learnt.on(target)})
        ATTACKS["universal"](search)
        assert (search.broken == broken).all()


def test_what_has_nothing_in_common_is_not_broken_by_one_perturbation_and_pga_finds_more():
    counts = []
    for spread in (0.05, 5.0):
        _, normals = shared_normals(spread)
        target = make_target(linear(normals, margins()))
        radius = 1.3 * margins() / reach(normals, target.batch, "l2", "sequence")
        even = torch.arange(0, EXAMPLES, 2)
        learnt = learn_universal([target.select(even + 1)], "nll")
        search = make_search(target, radius, learnt={"universal": learnt.on(target)}).select(even)
        ATTACKS["universal"](search)
        own = make_search(target, radius).select(even)
        ATTACKS["nll"](own)
        assert (own.kept >= search.kept - 1e-9).all() and own.broken.all()
        counts.append(int(search.broken.sum()))
    assert counts[0] == EXAMPLES // 2 and counts[1] < EXAMPLES // 4


def test_it_raises_the_loss_of_its_own_examples_more_than_random_directions_do():
    _, normals = shared_normals(0.5)
    target = make_target(linear(normals, margins()))
    learnt = learn_universal([target], "nll")

    def value(delta):
        return float((delta * normals * target.batch.perturbable[..., None]).sum())

    mask, search = target.batch.perturbable, make_search(target, torch.ones(EXAMPLES, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    others = [
        value(search.to_corner(placed(torch.randn(3, WIDTH, generator=generator).double().expand(16, -1, -1), mask)))
        for _ in range(200)
    ]
    assert value(search.to_corner(learnt.on(target))) > max(others)


def test_it_is_learnt_for_the_radius_at_which_it_is_tried():
    """Flat within a radius of 1, in another direction beyond: what is found inside says nothing of the outside."""
    _, normals = shared_normals(0.0)
    other = torch.randn(normals.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def height(delta, numbers):
        far = (delta * other).flatten(1).sum(dim=1) * (delta.flatten(1).norm(dim=1) - 1.5).clamp_min(0)
        return (delta * normals[numbers]).flatten(1).sum(dim=1) + 20 * far - 1000

    target = make_target(height)
    near, large = (learn_universal([target], "margin", multiple=multiple) for multiple in (1.0, 3.0))
    search = make_search(target, torch.full((EXAMPLES,), 3.0, dtype=torch.float64))
    values = [target.policy(search.to_corner(each.on(target)))[:, 0, 1].mean() for each in (near, large)]
    assert values[1] > values[0] + 10
    flat = learn_universal([make_target(linear(normals, margins()))], "margin")
    assert torch.allclose(near.directions[0], flat.directions[0])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=300))
@settings(max_examples=50, deadline=None)
def test_classes_are_of_consecutive_lengths_with_enough_examples_each(lengths):
    counts = torch.tensor(lengths)
    longest = universal._classes(counts)
    classes = universal._class_of(counts, longest)
    assert longest[-1] == max(lengths) and list(longest) == sorted(set(longest))
    sizes = [int((classes == number).sum()) for number in range(len(longest))]
    assert sum(sizes) == len(lengths) and min(sizes) >= min(32, len(lengths))
    for number, last in enumerate(longest):
        inside = counts[classes == number]
        assert int(inside.max()) == last and (number == 0 or int(inside.min()) > longest[number - 1])
    # Longer prompts than all of these get the last class.
    assert int(universal._class_of(torch.tensor([10**6]), longest)) == len(longest) - 1


@pytest.mark.parametrize(("norm", "scope"), [("l2", "sequence"), ("l2", "token"), ("linf", "sequence")])
def test_a_corner_is_the_farthest_point_of_the_ball(norm, scope):
    target = make_target(linear(directions(), margins()), perturbation_norm=norm, perturbation_scope=scope)
    radius = torch.linspace(0.1, 2, EXAMPLES, dtype=torch.float64)
    corner = make_search(target, radius).to_corner(1e-3 * directions())
    most = radius * reach(directions(), target.batch, norm, scope)
    assert torch.allclose((corner * directions()).flatten(1).sum(dim=1), most, rtol=1e-3)


def test_the_energy_is_that_of_the_projection():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, 30, dtype=torch.float64, generator=generator) for _ in range(2))
    expected = []
    for known, held_out in ((one, other), (other, one)):
        basis = torch.linalg.svd(known, full_matrices=False).Vh
        expected.append(
            [float((held_out @ basis[:r].T).square().sum() / held_out.square().sum()) for r in (1, 2, 4, 8)]
        )
    found = energy_by_rank(one, other)
    assert list(found) == [1, 2, 4, 8]
    assert list(found.values()) == pytest.approx([50 * (a + b) for a, b in zip(*expected, strict=True)], rel=1e-9)


def test_directions_of_few_dimensions_have_all_their_energy_there_and_random_ones_have_not():
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(2, 200, dtype=torch.float64, generator=generator)
    one, other = (torch.randn(40, 2, dtype=torch.float64, generator=generator) @ few for _ in range(2))
    found = energy_by_rank(one, other)
    assert found[1] < 99 and found[2] == pytest.approx(100) and found[32] == pytest.approx(100)
    noise = energy_by_rank(*(torch.randn(40, 200, dtype=torch.float64, generator=generator) for _ in range(2)))
    assert 3 < noise[8] < 8 and list(noise.values()) == sorted(noise.values())
