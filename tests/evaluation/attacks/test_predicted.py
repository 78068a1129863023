"""Gradients predicted without a backward pass: exact where they are linear, and worth what their signs are worth."""

from __future__ import annotations

import functools

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.predicted import (
    Agreement,
    Features,
    GradientPredictor,
    agreement,
    features_of,
    mean_agreement,
)
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.policy.policy import frozen_parameters
from tests.support.known_policies import EXAMPLES, directions, linear, make_search, make_target, margins, reach
from tests.support.small_agents import TOKENIZER, trained


def features(examples, answer=1, width=5, seed=0, hidden=0.0):
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(examples, answer, width, dtype=torch.float64, generator=generator)
    return Features(errors, hidden * torch.randn(examples, answer, width, dtype=torch.float64, generator=generator))


def test_a_linear_policy_with_squared_loss_is_predicted_exactly():
    """The logits W x + b have the error z - y, and the gradient of half its square is W' (z - y)."""
    generator = torch.Generator().manual_seed(0)
    policy, bias = (torch.randn(*size, dtype=torch.float64, generator=generator) for size in ((5, 12), (5,)))
    states, labels = (torch.randn(40, size, dtype=torch.float64, generator=generator) for size in (12, 5))
    states.requires_grad_(True)
    errors = states @ policy.T + bias - labels
    (gradients,) = torch.autograd.grad(0.5 * errors.square().sum(), states)
    errors, gradients = errors.detach()[:, None], gradients.reshape(40, 3, 4)
    known = Features(errors[:20], torch.zeros_like(errors[:20]))
    predictor = GradientPredictor.fit(known, gradients[:20])
    found = predictor.predict(Features(errors[20:], torch.zeros_like(errors[20:])))
    assert torch.allclose(found, gradients[20:], rtol=1e-4, atol=1e-4 * float(gradients.abs().max()))
    everywhere = torch.ones(20, 3, dtype=torch.bool)
    assert agreement(found, gradients[20:], everywhere).cosine == pytest.approx(1, abs=1e-6)


def test_a_jacobian_that_is_quadratic_in_the_hidden_state_is_predicted():
    def gradients(given):
        errors, hidden = given.errors[:, 0], given.hidden[:, 0]
        return (errors[:, :1] * (1 + hidden[:, :1] * hidden[:, 1:2]))[..., None].expand(-1, 2, 3)

    known, new = features(150, width=2, hidden=1.0), features(30, width=2, hidden=1.0, seed=1)
    predictor = GradientPredictor.fit(known, gradients(known))
    assert torch.allclose(predictor.predict(new), gradients(new), atol=0.05)
    blind = GradientPredictor.fit(Features(known.errors, 0 * known.hidden), gradients(known))
    assert not torch.allclose(blind.predict(Features(new.errors, 0 * new.hidden)), gradients(new), atol=0.5)


def test_of_what_errors_do_not_explain_the_ridge_takes_nothing():
    """Leave-one-out prefers the strongest ridge for noise, whose prediction then is near its mean, zero."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 2, 3, dtype=torch.float64, generator=generator)
    predictor = GradientPredictor.fit(features(40, width=30, hidden=1.0), noise)
    found = predictor.predict(features(40, width=30, hidden=1.0, seed=1))
    assert found.norm() < noise.norm()


def test_answers_of_other_lengths_and_paddings_do_not_count():
    known = features(20, answer=2, hidden=1.0)
    gradients = known.errors[:, :1, :3].expand(-1, 2, 3)
    padded = Features.joined([known, Features(known.errors[:1, :1], known.hidden[:1, :1])])
    assert padded.errors.shape == (21, 2, 5) and (padded.errors[-1, 1] == 0).all()
    predictor = GradientPredictor.fit(known, gradients)
    longer = Features(*(torch.nn.functional.pad(part, (0, 0, 0, 3)) for part in known))
    assert torch.allclose(predictor.predict(longer), predictor.predict(known), rtol=1e-9)


def test_what_is_saved_predicts_the_same(tmp_path):
    known, new = features(12, answer=2, hidden=1.0), features(5, answer=2, hidden=1.0, seed=1)
    predictor = GradientPredictor.fit(known, known.errors[:, :, :3])
    predictor.save(tmp_path / "gradients.safetensors")
    loaded = GradientPredictor.load(tmp_path / "gradients.safetensors")
    assert torch.equal(loaded.predict(new), predictor.predict(new))


def test_one_example_is_too_few():
    with pytest.raises(ValueError, match="at least two examples; got 1"):
        GradientPredictor.fit(features(1), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("right", [0.5, 0.6, 0.75, 0.9, 1.0])
def test_signs_that_are_right_with_some_probability_keep_that_much_of_the_rise(right):
    """Mean gain (2 q - 1) eps |g|_1 of a step along signs, zero at one half; of the l2 norm likewise what the cosine says."""
    generator = torch.Generator().manual_seed(0)
    normals, radius = directions(), torch.full((EXAMPLES,), 0.01, dtype=torch.float64)
    target = make_target(linear(normals, margins()), perturbation_norm="linf")
    mask, most, gains, signs = target.batch.perturbable, reach(normals, target.batch, "linf", "sequence"), [], []
    for _ in range(80):
        flips = torch.rand(normals.shape, generator=generator, dtype=torch.float64) < right
        guess = torch.where(flips, normals.sign(), -normals.sign())
        signs.append(agreement(guess, normals, mask).signs)
        search = make_search(target, radius, learnt={"predicted": guess})
        ATTACKS["predicted"](search)
        gains.append(((search.kept + margins()) / (radius * most)).mean())
    assert sum(signs) / 80 == pytest.approx(right, abs=0.01)
    assert float(sum(gains) / 80) == pytest.approx(2 * right - 1, abs=0.03)


def test_pga_leaves_no_more_success_than_predicted_gradients():
    normals = directions()
    target = make_target(linear(normals, margins()))
    radius = 1.2 * margins() / reach(normals, target.batch, "l2", "sequence")
    noise = torch.randn(normals.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    search, own = make_search(target, radius, learnt={"predicted": normals + noise}), make_search(target, radius)
    ATTACKS["predicted"](search)
    ATTACKS["nll"](own)
    assert search.broken.any() and not search.broken.all()
    assert (own.broken | ~search.broken).all() and own.broken.sum() > search.broken.sum()


def test_agreement_counts_only_what_may_be_moved():
    true = torch.tensor([[[1.0, -2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    guess = torch.tensor([[[1.0, 2.0], [9.0, -9.0]], [[-1.0, -1.0], [1.0, 1.0]]])
    found = agreement(guess, true, torch.tensor([[True, False], [True, True]]))
    assert found == pytest.approx((-0.3, 0.5, 2))
    parts = [Agreement(1.0, 0.5, 1), Agreement(0.0, 0.8, 3)]
    assert mean_agreement(parts) == pytest.approx((0.25, 0.725, 4))


@functools.cache
def known_target():
    rows = expert_rows("congestion", 6, seed=0, agents=3)
    agent = trained()
    return Target(agent, read_batch(TOKENIZER, rows, "prompt", agent.device), ThreatModel())


@pytest.mark.slow
def test_features_are_the_error_at_the_last_layer_and_its_output():
    """So that a linear head's gradient at its input is the error: against autograd through the whole model."""
    target = known_target()
    head, seen = target.model.get_output_embeddings(), []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad_(True)) or None)
    try:
        logits = target.policy(target.origin)
        value = LOSSES["warm_nll"](logits, target.batch).sum()
        (expected,) = torch.autograd.grad(value, seen[0])
    finally:
        handle.remove()
    first = 0 if target.policy.prefix is None else target.policy.prefix.length
    expected, hidden = (target.batch.at_actions(each, first) for each in (expected, seen[0].detach()))
    found, kept = features_of(target, "warm_nll"), target.batch.action_mask
    assert torch.allclose(found.errors[kept], expected[kept], rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.hidden[kept], hidden[kept], rtol=1e-4, atol=1e-5)
    assert (found.errors[~kept] == 0).all() and (found.hidden[~kept] == 0).all()


def test_nothing_is_computed_backwards_through_the_model():
    target = known_target()
    with frozen_parameters(target.model):
        calls, handles = [], []
        for layer in target.model.model.layers:
            handles.append(
                layer.register_forward_hook(lambda module, args, output: calls.append(torch.is_grad_enabled()))
            )
        features_of(target, "warm_nll")
        for handle in handles:
            handle.remove()
    assert calls and not any(calls)
