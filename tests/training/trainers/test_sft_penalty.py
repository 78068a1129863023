"""The penalty of AAJRTrainer, against formulas and full Jacobians."""

from __future__ import annotations

import math

import pytest
import torch

from aajr_hf.training.adversary.penalties import interpolations
from tests.support.matrices import largest_singular_value
from tests.support.reference import MEASURES, Reference
from tests.support.sft_reference import TOLERANCE, first_batch, reference_for
from tests.support.tiny import assert_same_gradient, dataset, one_step, tiny_model, trainer


def test_the_logged_penalty_is_that_of_the_full_jacobian(tmp_path):
    reference = reference_for(tmp_path)
    _, log = one_step(tmp_path)
    assert log["aajr/penalty"] == pytest.approx(float(reference.mean_penalty()), rel=1e-6)
    losses = [float(reference.adversarial(b)) for b in reference.examples]
    assert log["aajr/adversarial_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"system_loss": "expected_cost", "clean_loss_weight": 0.5},
        {"regularizer": "none", "clean_loss_weight": 1.0},
    ],
    ids=["aajr", "expected-cost", "adversarial"],
)
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path, overrides):
    whole, _ = one_step(tmp_path, **overrides)
    parts, _ = one_step(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, **overrides)
    assert_same_gradient(parts, whole, 1e-9)


TRANSFORMS = {
    "logits": lambda z: z,
    "centered_logits": lambda z: z - z.mean(-1, keepdim=True),
    "log_probs": lambda z: z.log_softmax(-1),
    "probs": lambda z: z.softmax(-1),
}


@pytest.mark.slow
@pytest.mark.parametrize("output", TRANSFORMS)
def test_penalty_output_is_differentiated_as_the_formula_says(tmp_path, output):
    reference = reference_for(tmp_path)
    expected = reference.mean(reference.adversarial) + 0.01 * reference.mean_penalty(TRANSFORMS[output])
    gradient, _ = one_step(tmp_path, regularizer_lambda=0.01, penalty_output=output)
    assert_same_gradient(gradient, reference.gradient(expected), TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "reduction"), [("fisher", "sum"), ("margin", "token_mean")])
def test_fisher_and_margin_are_quadratic_forms_of_the_jacobian_of_the_logits(tmp_path, measure, reduction):
    reference = reference_for(tmp_path, epsilon=0.5)
    terms = [reference.penalty(b, squared=MEASURES[measure]) for b in reference.examples]
    if reduction == "token_mean":
        terms = [term / len(reference.example(b)[2]) for b, term in enumerate(terms)]
    penalty = torch.stack(terms).mean()
    settings = {"penalty_output": measure, "penalty_reduction": reduction, "epsilon": 0.5, "regularizer_lambda": 1.0}
    gradient, log = one_step(tmp_path, **settings)
    assert log["aajr/penalty"] == pytest.approx(float(penalty.detach()), rel=1e-5)
    expected = reference.gradient(reference.mean(reference.adversarial) + penalty)
    assert_same_gradient(gradient, expected, TOLERANCE)
    checkpointed, _ = one_step(tmp_path, gradient_checkpointing=True, **settings)
    assert_same_gradient(checkpointed, expected, TOLERANCE)
    # The probabilities and the closest token are those of one point, and no differences of those of two.
    estimated, _ = one_step(tmp_path, jacobian_estimator="finite_difference", **settings)
    assert_same_gradient(estimated, expected, 1e-2)


@pytest.mark.slow
def test_the_largest_singular_value_of_the_fisher_metric(tmp_path):
    data = dataset(1).select([0] * 4)
    reference = Reference(tiny_model(), first_batch(trainer(tmp_path, data=data)), steps=1)
    clean = torch.zeros_like(reference.embeddings(0))
    mask = reference.prompt(0).expand_as(clean).flatten().bool()
    full = reference.jacobian(0, clean, lambda z: z)[:, mask].detach()
    p = reference.logits(0, reference.embeddings(0)).softmax(-1).detach()
    metric = torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p))
    settings = {
        "regularizer": "local_spectral",
        "penalty_output": "fisher",
        "ascent_steps": 1,
        "power_iterations": 200,
    }
    _, log = one_step(tmp_path, data=data, **settings)
    assert log["aajr/penalty"] == pytest.approx(float(torch.linalg.eigvalsh(full.T @ metric @ full)[-1]), rel=1e-5)


def test_token_mean_divides_by_the_number_of_action_tokens(tmp_path):
    reference = reference_for(tmp_path)
    terms = [reference.penalty(b) / len(reference.example(b)[2]) for b in reference.examples]
    expected = reference.mean(reference.adversarial) + 0.01 * torch.stack(terms).mean()
    gradient, _ = one_step(tmp_path, regularizer_lambda=0.01, penalty_reduction="token_mean")
    assert_same_gradient(gradient, reference.gradient(expected), TOLERANCE)


@pytest.mark.parametrize("system_loss", ["nll", "expected_cost"])
@pytest.mark.parametrize(("adversarial", "clean"), [(1.0, 0.0), (0.4, 0.7), (0.0, 0.7)])
def test_the_outer_loss_is_weighted_adversarial_plus_weighted_clean(tmp_path, system_loss, adversarial, clean):
    reference = reference_for(tmp_path, system_loss=system_loss)
    expected = adversarial * reference.mean(reference.adversarial)
    expected = expected + clean * reference.mean(lambda b: reference.loss(b, reference.embeddings(b)))
    weights = {"adversarial_loss_weight": adversarial, "clean_loss_weight": clean}
    gradient, log = one_step(tmp_path, system_loss=system_loss, regularizer="none", **weights)
    assert log["aajr/adversarial_loss"] > log["aajr/clean_loss"]
    assert_same_gradient(gradient, reference.gradient(expected), TOLERANCE)


@pytest.mark.slow
def test_the_budget_penalises_the_excess_alone(tmp_path):
    reference = reference_for(tmp_path)
    squared = []
    for b in reference.examples:
        deltas, directions = reference.ascend(b)
        for delta, direction in zip(deltas, directions, strict=False):
            squared.append((reference.jacobian(b, delta, lambda z: z) @ direction.flatten()).square().sum())
    budget = float(torch.stack(squared).sqrt().median())
    excess = torch.stack([(a.sqrt() - budget).clamp_min(0).square() for a in squared]).mean()
    gradient, log = one_step(tmp_path, regularizer_lambda=0.01, amplification_budget=budget)
    expected = reference.mean(reference.adversarial) + 0.01 * excess
    assert_same_gradient(gradient, reference.gradient(expected), TOLERANCE)
    assert log["aajr/penalty"] == pytest.approx(float(excess), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["local_spectral", "global_spectral"])
def test_spectral_regularizers_penalise_the_largest_singular_value(tmp_path, regularizer):
    # With one observation four times, every interpolation between observations is that observation.
    data = dataset(1).select([0] * 4)
    run = trainer(tmp_path, data=data)
    reference = Reference(tiny_model(), first_batch(run), steps=1)
    mask = reference.prompt(0).expand_as(reference.embeddings(0)).flatten().bool()
    full = reference.jacobian(0, torch.zeros_like(reference.embeddings(0)), lambda z: z)[:, mask]
    expected = reference.mean(reference.adversarial) + 0.01 * largest_singular_value(full) ** 2
    gradient, _ = one_step(
        tmp_path, data=data, regularizer=regularizer, ascent_steps=1, regularizer_lambda=0.01, power_iterations=200
    )
    assert_same_gradient(gradient, reference.gradient(expected), 1e-4)


def test_an_interpolation_is_with_another_observation_of_the_batch():
    torch.manual_seed(0)
    state, everywhere = torch.randn(5, 3, 2, dtype=torch.float64), torch.ones(5, 3, dtype=torch.bool)
    partners = set()
    for _ in range(200):
        moves = interpolations(state, everywhere)
        for i in range(5):
            ratios = [(moves[i] / (state[j] - state[i])).flatten() for j in range(5) if j != i]
            found = [j for j, ratio in enumerate(ratios) if torch.allclose(ratio, ratio[0].expand(6))]
            assert len(found) == 1 and 0 < ratios[found[0]][0] < 1
            partners.add((i, found[0]))
    assert len(partners) == 20  # any of them
    assert not interpolations(state[:1], everywhere[:1]).any()


@pytest.mark.parametrize("regularizer", ["random_direction", "global_frobenius"])
def test_processes_draw_other_directions(tmp_path, regularizer):
    def penalty(process):
        run = trainer(tmp_path, regularizer=regularizer)
        run.draw_offset = process
        run.train()
        return run.state.log_history[0]["aajr/penalty"]

    assert penalty(0) == penalty(0) != penalty(1)


@pytest.mark.slow
def test_the_global_frobenius_penalty_is_unbiased(tmp_path):
    data = dataset(1).select([0] * 4)
    run = trainer(tmp_path, data=data)
    reference = Reference(tiny_model(), first_batch(run))
    mask = reference.prompt(0).expand_as(reference.embeddings(0)).flatten().bool()
    exact = float(
        reference.jacobian(0, torch.zeros_like(reference.embeddings(0)), lambda z: z)[:, mask].square().sum()
    )
    run = trainer(tmp_path, data=data, regularizer="global_frobenius", max_steps=100, learning_rate=1e-12)
    run.train()
    draws = [log["aajr/penalty"] for log in run.state.log_history if "aajr/penalty" in log]
    spread = torch.tensor(draws).std() / math.sqrt(len(draws))
    assert abs(sum(draws) / len(draws) - exact) < 4 * spread
