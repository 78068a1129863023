"""Differentiating the penalty point by point gives the gradient of the sum, with one graph in memory at a time."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from aajr_hf.training.adversary.one_by_one import sum_one_by_one
from aajr_hf.training.trainers.penalty import PenaltyMixin
from tests.support.tiny import dataset, tiny_model, trainer


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_is_the_sum_with_its_gradient(scale):
    torch.manual_seed(0)
    layer, frozen = nn.Linear(3, 4).double(), nn.Linear(3, 4).double().requires_grad_(False)
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    points = torch.randn(5, 3, dtype=torch.float64)
    parameters = [*layer.parameters(), *frozen.parameters(), unused]

    def term(point):
        return (layer(point) * frozen(point)).square().sum()

    expected = 0.7 * sum(term(p) for p in points) + layer.weight.sum()
    gradients = torch.autograd.grad(expected, list(layer.parameters()))
    found = 0.7 * sum_one_by_one((term(p) for p in points), parameters, scale) + layer.weight.sum()
    assert found.item() == pytest.approx(expected.item())
    found.backward()
    torch.testing.assert_close(tuple(p.grad for p in layer.parameters()), gradients)
    assert unused.grad is None and frozen.weight.grad is None


class _Saved:
    """A tensor that a graph keeps."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_keeps_one_graph_at_a_time():
    weight = nn.Parameter(torch.ones(3))
    kept = weakref.WeakSet()

    def keep(tensor):
        kept.add(saved := _Saved(tensor))
        return saved

    def terms():
        for _ in range(4):
            assert not kept, "an earlier term is still in memory"
            yield weight.exp().sum()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        total = sum_one_by_one(terms(), [weight])
    total.backward()
    torch.testing.assert_close(weight.grad, 4 * torch.ones(3).exp())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"penalty_fraction": 0.5, "clean_loss_weight": 1.0, "penalty_radius": 1.5},
        {"regularizer": "random_direction"},
        {"jacobian_estimator": "finite_difference"},
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "amplification_budget": 0.1},
    ],
    ids=lambda overrides: "-".join(map(str, overrides)) or "exact",
)
def test_training_takes_the_same_steps(tmp_path, monkeypatch, overrides):
    weights = []
    for one_by_one in (True, False):
        settings = {"ascent_steps": 3, "max_steps": 2, "learning_rate": 1e-2, "regularizer_lambda": 1e-2}
        if not one_by_one:
            monkeypatch.setattr(PenaltyMixin, "_one_by_one", False)
        model = tiny_model()
        run = trainer(tmp_path, model, dataset(), **settings | overrides)
        if one_by_one:
            assert run._one_by_one
        run.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)  # Adam magnifies rounding
