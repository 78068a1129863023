"""A screening counts what each attack leaves alone, and without gradients computes none."""

from __future__ import annotations

import functools

import pytest
import torch

from aajr_hf.evaluation.attacks.predicted import Features, GradientPredictor
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.screening import agreement_on, fit_predictor, screen
from aajr_hf.training.policy.policy import frozen_parameters
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, copying


def target_of(rows, epsilon=1.0):
    batch = read_batch(COPYING_TOKENIZER, rows, "prompt", copying().device)
    return Target(copying(), batch, ThreatModel(epsilon=epsilon))


@functools.cache
def predictor():
    with frozen_parameters(copying()):
        return fit_predictor([target_of(COPYING_ROWS[:8]), target_of(COPYING_ROWS[8:])])


def screened(**how):
    with frozen_parameters(copying()):
        return screen([target_of(COPYING_ROWS[:6]), target_of(COPYING_ROWS[6:])], predictor(), **how)


def test_success_falls_from_no_attack_to_pga():
    found = screened(gradients=True)
    assert list(found) == ["none", "random", "predicted", "one step", "PGA"]
    left = {name: sum(attack.outcomes) for name, attack in found.items()}
    assert left["none"] == 16 and left["PGA"] <= min(left.values()) and left["PGA"] < left["random"]
    assert left["predicted"] < left["random"]
    assert found["PGA"].success == 100 * left["PGA"] / 16
    assert all(len(attack.outcomes) == 16 and attack.seconds > 0 for attack in found.values())


@pytest.mark.slow
def test_without_gradients_none_passes_through_the_model(monkeypatch):
    passed = []

    def seen(module, args, output):
        passed.append(output[0].requires_grad if isinstance(output, tuple) else output.requires_grad)

    expected = screened(gradients=True)
    handles = [layer.register_forward_hook(seen) for layer in copying().model.layers]
    try:
        found = screened(gradients=False)
    finally:
        for handle in handles:
            handle.remove()
    assert passed and not any(passed)
    assert list(found) == ["none", "random", "predicted"]
    assert all(found[name].outcomes == expected[name].outcomes for name in found)


def test_on_its_own_rows_the_fit_agrees_and_on_shuffled_gradients_it_does_not():
    with frozen_parameters(copying()):
        targets = [target_of(COPYING_ROWS)]
        own = agreement_on(predictor(), targets)
        shuffled = predictor().weights[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
        wrong = agreement_on(
            GradientPredictor(predictor().errors, predictor().hidden, shuffled, predictor().scale), targets
        )
    assert own.examples == 16 and own.cosine > 0.9 and own.signs > 0.8
    assert wrong.cosine < 0.5 < own.cosine


def test_a_predictor_of_another_width_is_refused():
    target = target_of(COPYING_ROWS[:2])
    predictor().check_fits(target)
    zeros = torch.zeros(3, 2, 16)
    with pytest.raises(ValueError, match="embeddings of width 5, and those of the model have width 16"):
        GradientPredictor.fit(Features(zeros + 1, zeros), torch.zeros(3, 4, 5)).check_fits(target)
    with pytest.raises(ValueError, match="last hidden states of width 7"):
        wide = torch.ones(3, 2, 7)
        GradientPredictor.fit(Features(wide, wide), torch.zeros(3, 4, 16)).check_fits(target)
