"""Schedules of epsilon, lambda and K: their values, the curriculum's clock, what is in force in training, and why there is a warm-up."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from aajr_hf.training.adversary.schedules import Schedules
from aajr_hf.training.config.sft import AAJRConfig
from tests.support.memory import memory
from tests.support.tiny import dataset, tiny_model, trainer


def schedules(max_steps=20, **fields):
    defaults = dict.fromkeys(("epsilon_schedule", "lambda_schedule", "ascent_steps_schedule"), "constant")
    settings = {"aajr_warmup_ratio": 0.3, "ascent_steps": 3, "curriculum_threshold": 0.5} | defaults | fields
    kept, state = memory(max_steps=max_steps)
    return Schedules(SimpleNamespace(**settings), lambda: state, kept), state, kept.numbers


def test_each_schedule_grows_as_its_formula_says():
    fields = {"epsilon_schedule": "linear", "lambda_schedule": "cosine", "ascent_steps_schedule": "linear"}
    found, state, _ = schedules(**fields)
    values = []
    for state.global_step in range(8):
        values.append((found.epsilon_fraction, found.lambda_fraction, found.ascent_steps))
    epsilon, strength, steps = zip(*values, strict=True)
    assert epsilon == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])
    assert strength == pytest.approx([(1 - math.cos(math.pi * p)) / 2 for p in epsilon])
    assert steps == (1, 1, 2, 2, 3, 3, 3, 3)
    constant, _, _ = schedules()
    assert (constant.epsilon_fraction, constant.lambda_fraction, constant.ascent_steps) == (1, 1, 3)


def test_the_first_of_very_many_steps_has_an_ascent():
    found, _, _ = schedules(max_steps=10**6, ascent_steps_schedule="cosine")
    assert found.ascent_steps == 1


def test_a_curriculum_grows_only_while_the_agent_succeeds():
    found, _, kept = schedules(epsilon_schedule="curriculum")
    means = []
    for success in ([1.0, 0.8], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [1.0]):
        for share in success:
            found.observe(share)
        found.on_step_end(None, None, None)
        mean = sum(success) / len(success)
        means.append(mean if not means else 0.9 * means[-1] + 0.1 * mean)
        grown = sum(mean >= 0.5 for mean in means)
        assert kept["curriculum"] == {"grown": grown, "success": pytest.approx(means[-1])}
        assert found.epsilon_fraction == pytest.approx(min((grown + 1) / 6, 1))
    assert 1 < grown < 8


CURRICULUM = {
    "epsilon_schedule": "curriculum",
    "lambda_schedule": "cosine",
    "ascent_steps_schedule": "curriculum",
    "aajr_warmup_ratio": 1.0,
    "optim": "adamw_torch",
}


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1e-9, 1.0])
def test_what_is_in_force_in_training(tmp_path, threshold):
    run = trainer(
        tmp_path, max_steps=6, learning_rate=1e-12, data=dataset(4), curriculum_threshold=threshold, **CURRICULUM
    )
    # Which knows none of the answers, so that the clock stands still, unless nothing is asked for.
    run.add_callback(SimpleSuccess(run, threshold < 1))
    run.train()
    logs = run.state.log_history[:-1]
    grown = range(1, 7) if threshold < 1 else [1] * 6
    radius = 0.25 * logs[0]["aajr/embedding_norm"]
    assert [log["aajr/delta_norm"] for log in logs] == pytest.approx([radius * k / 6 for k in grown], rel=0.02)
    assert run.schedules.ascent_steps == (3 if threshold < 1 else 1)


class SimpleSuccess:
    """Says that an agent succeeds, before its curriculum asks."""

    def __new__(cls, run, succeeds):
        observe = run.schedules.observe
        run.schedules.observe = lambda success: observe(1.0 if succeeds else success)
        return TrainerCallback()


def test_success_is_that_of_greedy_decoding_under_attack(tmp_path):
    run = trainer(tmp_path)
    inputs = next(iter(run.get_train_dataloader()))
    system = run._system_loss(inputs, None)
    batch = system.batch
    logits = torch.nn.functional.one_hot(batch.action_labels, len(run.processing_class)).double()
    assert system.success(logits).all() and not batch.action_mask.all()
    # Beyond an action's end nothing counts; a single other token does.
    logits[~batch.action_mask] = 0
    logits[1, 0] = -logits[1, 0]
    assert system.success(logits).tolist() == [True, False, True, True]


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_curriculum(tmp_path):
    settings = CURRICULUM | {"max_steps": 6, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 2}
    settings |= {"curriculum_threshold": 0.5}
    runs = [trainer(tmp_path, tiny_model(torch.float32, seed), dataset(64), **settings) for seed in (0, 1)]
    for run in runs:
        SimpleSuccess(run, True)
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert runs[0].memory.numbers == runs[1].memory.numbers and runs[0].memory.numbers["curriculum"]["grown"] == 6
    for name, value in runs[0].model.state_dict().items():
        assert torch.equal(runs[1].model.state_dict()[name], value)


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


@pytest.mark.slow
def test_the_default_warm_up_keeps_most_runs_with_a_steep_penalty_finite(tmp_path):
    """
    The penalty's curvature falls with the amplification: a weight that ends well is too much for the first steps. Which runs
    end so depends on the last bit, so that runs are counted.
    """
    lost = {0.0: 0, AAJRConfig.aajr_warmup_ratio: 0}
    settings = {"max_steps": 200, "ascent_steps": 1, "learning_rate": 0.05, "regularizer_lambda": 0.3}
    for seed in range(3):
        for ratio in lost:
            run = trainer(tmp_path, tiny_model(torch.float32, seed), dataset(64), aajr_warmup_ratio=ratio, **settings)
            run.add_callback(StopAfter(20))  # the whole warm-up
            try:
                run.train()
            except FloatingPointError:
                lost[ratio] += 1
    without, with_warm_up = lost.values()
    assert without >= 2 and with_warm_up < without
