"""The attacks' losses against loops over examples and tokens."""

from __future__ import annotations

import math

import pytest
import torch

from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.target import success
from tests.support.known_policies import EXAMPLES, VOCABULARY, make_batch


@pytest.fixture
def batch():
    batch = make_batch()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(VOCABULARY, batch.action_labels.shape, generator=generator)
    batch.action_labels = labels * batch.action_mask
    batch.candidate_tokens = torch.tensor([[1, 3, 0]]).expand(EXAMPLES, 3)
    batch.candidate_costs = torch.rand(EXAMPLES, 3, generator=generator).double()
    batch.candidate_mask = torch.tensor([[True, True, False], [True, True, True]] * (EXAMPLES // 2))
    batch.candidate_column = batch.action_mask.sum(dim=1) - 1
    return batch


@pytest.fixture
def logits():
    """So that of about half of the examples the answer is right."""
    return 3 * torch.randn(EXAMPLES, 2, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def lifted(logits, batch):
    lift = torch.zeros_like(logits).scatter_(-1, batch.action_labels[..., None], 4.0)
    return logits + lift


def nll_by_hand(values, label, temperature):
    return math.log(sum(math.exp(v / temperature) for v in values)) - values[label] / temperature


def margin_by_hand(values, label):
    return max(value for token, value in enumerate(values) if token != label) - values[label]


def scale_free_by_hand(values, label):
    first, _, third = sorted(values, reverse=True)[:3]
    return margin_by_hand(values, label) / (first - third)


@pytest.mark.parametrize(
    ("name", "of_token", "over_tokens"),
    [
        ("nll", lambda v, y: nll_by_hand(v, y, 1), sum),
        ("warm_nll", lambda v, y: nll_by_hand(v, y, 3), sum),
        ("tempered_nll", lambda v, y: nll_by_hand(v, y, 10), sum),
        ("margin", margin_by_hand, max),
        ("scale_free_margin", scale_free_by_hand, max),
    ],
)
def test_losses_are_the_formulas(name, of_token, over_tokens, logits, batch):
    logits = lifted(logits, batch)
    expected = [
        over_tokens(
            of_token(logits[b, a].tolist(), int(batch.action_labels[b, a]))
            for a in range(2)
            if bool(batch.action_mask[b, a])
        )
        for b in range(EXAMPLES)
    ]
    assert LOSSES[name](logits, batch).tolist() == pytest.approx(expected, rel=1e-9)
    # Whatever the logits of the padding.
    other = torch.where(batch.action_mask[..., None], logits, -7 * logits.flip(-1))
    assert LOSSES[name](other, batch).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_cost_is_expected_over_the_candidates(logits, batch):
    expected = []
    for b in range(EXAMPLES):
        column, kept = int(batch.candidate_column[b]), batch.candidate_mask[b].tolist()
        weights = [
            math.exp(logits[b, column, token]) * there
            for token, there in zip(batch.candidate_tokens[b].tolist(), kept, strict=True)
        ]
        costs = batch.candidate_costs[b].tolist()
        expected.append(sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights))
    assert LOSSES["cost"](logits, batch).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["margin", "scale_free_margin"])
def test_margins_are_above_zero_where_greedy_decoding_is_wrong_and_nowhere_else(name, logits, batch):
    logits = lifted(logits, batch)
    wrong = success(logits, batch)[0] == 0
    assert 2 < wrong.sum() < EXAMPLES - 2
    assert (LOSSES[name](logits, batch) > 0).equal(wrong)


def test_no_scale_of_the_logits_hides_the_scale_free_margin(logits, batch):
    values = {scale: LOSSES["scale_free_margin"](scale * logits, batch) for scale in (1e-3, 1.0, 7.0, 1e4)}
    for value in values.values():
        assert torch.allclose(value, values[1.0], rtol=1e-9)
    assert torch.allclose(LOSSES["margin"](7 * logits, batch), 7 * LOSSES["margin"](logits, batch))


def test_equal_logits_make_no_loss_infinite(batch):
    logits = torch.zeros(EXAMPLES, 2, VOCABULARY, requires_grad=True)
    for name, loss in LOSSES.items():
        values = loss(logits, batch)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert torch.isfinite(values).all(), name
        assert torch.isfinite(gradient).all(), name
