"""Rollback: on a quadratic whose step is too large, and in training: to the bit without effect, resumed exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from aajr_hf.training.runs.overfitting import STEPS
from aajr_hf.training.runs.rollback import Rollback
from tests.support.completions import grpo
from tests.support.memory import memory
from tests.support.tiny import dataset, tiny_model, trainer


def descend(tolerance, steps=60, interval=1, rate=2.5):
    """Gradient descent on the square of x from 1, with a rate that multiplies it by 1 - 2.5 in each step."""
    x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=rate, momentum=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    accepted = []
    control = Rollback(tolerance, interval, lambda: float(x.detach() ** 2 / 2), lambda: {"x": x}, memory()[0])
    control.on_train_begin(None, SimpleNamespace(global_step=0), None, optimizer=optimizer)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (x**2 / 2).sum().backward()
        optimizer.step()
        scheduler.step()
        now = SimpleNamespace(global_step=step)
        control.on_step_end(None, now, None, optimizer=optimizer, lr_scheduler=scheduler)
        if step % interval == 0:
            accepted.append(float(x.detach() ** 2 / 2))
    return accepted, control.state, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(("tolerance", "interval"), [(0.0, 1), (0.1, 1), (0.1, 3)])
def test_too_large_a_step_diverges_without_and_not_with(tolerance, interval):
    losses, found, _ = descend(math.inf, interval=interval)
    assert losses[-1] > 1e6 and found["rollbacks"] == 0
    losses, found, rate = descend(tolerance, interval=interval)
    assert losses[-1] < 1e-6
    lowest = 0.5
    for loss in losses:
        assert loss <= lowest + tolerance
        lowest = min(lowest, loss)
    assert found["rollbacks"] > 0 and rate == 2.5 / 2 ** found["rollbacks"]


def test_a_loss_that_is_not_a_number_is_never_accepted():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    losses = iter([1.0, math.nan])
    control = Rollback(5.0, 1, lambda: next(losses), lambda: {"weight": weight}, memory()[0])
    control.on_train_begin(None, SimpleNamespace(global_step=0), None, optimizer=optimizer)
    weight.data.fill_(7.0)
    control.on_step_end(None, SimpleNamespace(global_step=1), None, optimizer=optimizer)
    assert weight.item() == 0 and optimizer.param_groups[0]["lr"] == 0.5 and control.state["lowest"] == 1.0


FAST = {"optim": "adamw_torch", "ascent_steps": 1, "aajr_warmup_ratio": 0.0, "logging_steps": 1, "max_steps": 8}


@pytest.mark.slow
def test_an_infinite_tolerance_changes_nothing(tmp_path):
    # The sampled penalty draws random numbers in each step.
    settings = FAST | {"learning_rate": 1e-2, "penalty_trajectory": "sample", "penalty_fraction": 0.5, "max_steps": 4}
    plain = trainer(tmp_path, tiny_model(torch.float32), **settings)
    plain.train()
    watched = trainer(
        tmp_path, tiny_model(torch.float32), rollback_tolerance=math.inf, rollback_interval=1, **settings
    )
    watched.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(watched.model.state_dict()[name], value)
    assert all(math.isfinite(log["aajr/probe_loss"]) for log in watched.state.log_history if "loss" in log)
    assert not any("aajr/probe_loss" in log for log in plain.state.log_history)


# At a learning rate that is a hundred times too high.
STEEP = FAST | {"learning_rate": 2.0, "regularizer": "none", "clean_loss_weight": 1.0, "ema_decay": 0.5}


@pytest.mark.slow
def test_training_keeps_what_it_had_where_the_rate_is_too_high(tmp_path):
    wild = trainer(tmp_path, tiny_model(torch.float32), **STEEP | {"ema_decay": None})
    start = wild.probe(steps=STEPS).loss
    wild.train()
    run = trainer(
        tmp_path, tiny_model(torch.float32), rollback_tolerance=0.05, rollback_interval=1, max_steps=12, **_but(STEEP)
    )
    run.train()
    logs = [log for log in run.state.log_history if "loss" in log]
    accepted, lowest, count = [], start, 0
    for log in logs:
        if log["aajr/rollbacks"] == count:
            accepted.append(log["aajr/probe_loss"])
            assert accepted[-1] <= lowest + 0.05 + 1e-6
            lowest = min(lowest, accepted[-1])
        else:
            assert log["aajr/probe_loss"] > lowest + 0.05 - 1e-6
        count = log["aajr/rollbacks"]
    assert count > 0 and accepted and run.probe(steps=STEPS).loss <= start + 0.05 < wild.probe(steps=STEPS).loss
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(2.0 / 2**count)


@pytest.mark.slow
def test_the_probe_is_attacked_in_ten_steps_where_training_takes_one(tmp_path):
    run = trainer(
        tmp_path,
        tiny_model(torch.float32),
        rollback_tolerance=0.0,
        rollback_interval=1,
        ascent_steps=1,
        learning_rate=0.0,
    )
    run.train()
    found = run.state.log_history[0]["aajr/probe_loss"]
    assert found == pytest.approx(run.probe(steps=10).loss) and found != pytest.approx(
        run.probe(steps=1).loss, rel=1e-3
    )


def _but(settings):
    return {name: value for name, value in settings.items() if name != "max_steps"}


@pytest.mark.slow
def test_a_resumed_run_goes_back_to_the_state_that_the_whole_run_went_back_to(tmp_path):
    # While the rate rises, the state of step 4 is accepted, and that of step 6 is not.
    settings = STEEP | {"rollback_tolerance": 0.02, "rollback_interval": 2}
    settings |= {
        "save_strategy": "steps",
        "save_steps": 5,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 6,
    }
    whole = trainer(tmp_path, tiny_model(torch.float32), dataset(64), **settings)
    whole.train()
    again = trainer(tmp_path, tiny_model(torch.float32, seed=1), dataset(64), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert whole.rollback.state["rollbacks"] == 2 and again.rollback.state == whole.rollback.state
    # Step 8 is not accepted either: what is left is the state of a run of four steps.
    short = trainer(tmp_path / "short", tiny_model(torch.float32), dataset(64), **settings | {"max_steps": 4})
    short.train()
    for run in (whole, again):
        for name, value in short.model.state_dict().items():
            assert torch.equal(run.model.state_dict()[name], value)
        for name, value in short.average.tensors.items():
            assert torch.equal(run.average.tensors[name], value)
        moments = [[trained.optimizer.state[p] for p in trained.model.parameters()] for trained in (run, short)]
        for ours, theirs in zip(*moments, strict=True):
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (tmp_path / "checkpoint-5" / "rollback.pt").unlink()
    with pytest.raises(ValueError, match="`rollback_tolerance`: .*checkpoint-5 has no state"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.parametrize("attribute", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_split_parameters_are_refused(tmp_path, attribute):
    run = trainer(tmp_path, rollback_tolerance=0.1)
    setattr(run, attribute, True)
    with pytest.raises(ValueError, match="`rollback_tolerance`.*no process has the whole state"):
        run._begin_rollback()


def test_sampled_completions_are_no_probe(tmp_path):
    with pytest.raises(ValueError, match="`rollback_tolerance` must be None .*with GRPO"):
        grpo(tmp_path, tiny_model(torch.float32), rollback_tolerance=0.1)
