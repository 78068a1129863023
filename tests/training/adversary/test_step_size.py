"""`ascent_step_size=auto` on language models: certified steps, and what they cost."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.objective import projected_gradient_ascent
from aajr_hf.training.adversary import ascent as ascent_module
from aajr_hf.training.adversary.ascent import ascend
from tests.support.completions import dpo, first_inputs, grpo
from tests.support.tiny import assert_same_gradient, one_step, tiny_model, trainer

AUTO = {"ascent_step_rule": "gradient", "ascent_step_size": "auto", "regularizer_lambda": 0.1, "ascent_steps": 5}


def together(*args, select, **kwargs):
    return projected_gradient_ascent(*args, **kwargs)


def ascent_of(run, policy=None):
    torch.manual_seed(0)
    inputs = next(iter(run.get_train_dataloader()))
    system = run._system_loss(inputs, None)
    policy = system.policy(run.model, None)
    return system, policy, ascend(run.args, policy, system, 1.0, keep_products=False)


@pytest.mark.slow
@pytest.mark.parametrize("system_loss", ["nll", "expected_cost"])
def test_examples_that_are_tried_again_alone_are_trained_as_all(tmp_path, monkeypatch, system_loss):
    settings = AUTO | {"system_loss": system_loss, "epsilon": 2.0}
    gradient, metrics = one_step(tmp_path / "apart", **settings)
    monkeypatch.setattr(ascent_module, "projected_gradient_ascent", together)
    expected, expected_metrics = one_step(tmp_path / "together", **settings)
    assert_same_gradient(gradient, expected, 1e-9)
    for name, value in expected_metrics.items():
        if name.startswith("aajr/"):
            assert metrics[name] == pytest.approx(value, rel=1e-9), name
    assert metrics["aajr/monotone_fraction"] == 1


def test_the_recorded_logits_are_those_at_the_points(tmp_path):
    """Also where some examples accept the first trial and others a later one."""
    run = trainer(tmp_path, epsilon=4.0, **AUTO, per_device_train_batch_size=8)
    forwards = []
    handle = run.model.register_forward_hook(lambda module, args, kwargs, output: forwards.append(1), with_kwargs=True)
    system, policy, found = ascent_of(run)
    handle.remove()
    assert len(forwards) > found.trajectory.steps + 1  # some are tried again
    with torch.no_grad():
        logits = [policy(delta) for delta in found.trajectory.deltas]
    found.recorder.propose(logits[-1])
    found.recorder.accept()
    moves = found.trajectory.deltas.diff(dim=0).flatten(2).norm(dim=2)
    changes = torch.stack([(b - a).flatten(1).norm(dim=1) for a, b in zip(logits, logits[1:], strict=False)])
    torch.testing.assert_close(found.recorder.secants(found.trajectory), changes / moves, rtol=1e-8, atol=1e-10)
    losses = torch.stack([system.per_example(z) for z in logits])
    torch.testing.assert_close(found.trajectory.losses, losses, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_backtracking_costs_at_most_one_forward_a_step(tmp_path):
    """On a policy at random and on one that has learnt: evaluations, in whole batches, beyond one a step."""
    learning = {"max_steps": 40, "optim": "adamw_torch", "learning_rate": 0.01, "max_grad_norm": 1.0}
    run = trainer(
        tmp_path, tiny_model(torch.float32), **AUTO | {"ascent_steps": 3, "per_device_train_batch_size": 8} | learning
    )
    extra = []
    for learnt in (False, True):
        if learnt:
            run.train()
        counted = 0.0

        def count(module, args, kwargs, output):
            nonlocal counted
            counted += kwargs["input_ids"].shape[0] / 8

        handle = run.model.register_forward_hook(count, with_kwargs=True)
        for _ in range(4):
            ascent_of(run)
        handle.remove()
        extra.append((counted / 4 - 3) / 3)
    assert all(0 < value <= 1 for value in extra), extra
    losses = [log["aajr/clean_loss"] for log in run.state.log_history if "aajr/clean_loss" in log]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("make", [trainer, dpo, grpo])
def test_a_loss_of_some_examples_is_that_of_all(tmp_path, make):
    run = make(tmp_path)
    system = run._system_loss(first_inputs(run), None)
    policy, rows = system.policy(run.model.eval(), None), torch.tensor([1, 0])
    with torch.no_grad():
        logits = policy()
        expected = system.per_example(logits)
        torch.testing.assert_close(system.per_example(policy.select(rows)(), rows), expected[rows])
        torch.testing.assert_close(system.per_example(logits[rows], rows), expected[rows])
    assert expected[0] != expected[1]


@pytest.mark.parametrize(("norm", "scope"), [("l2", "sequence"), ("l2", "token"), ("linf", "sequence")])
def test_the_default_step_reaches_the_end_of_any_ball(tmp_path, norm, scope):
    """Each step has 2.5 / K of half the ball's l2 diameter, so that K of them cross it."""
    run = trainer(tmp_path, perturbation_norm=norm, perturbation_scope=scope, ascent_steps=3)
    _, policy, found = ascent_of(run)
    mask = policy.batch.perturbable
    vectors = mask.sum(dim=1).double()
    factors = {("l2", "sequence"): 1, ("l2", "token"): vectors, ("linf", "sequence"): vectors * found.state.shape[2]}
    expected = 2.5 * 0.25 / 3 * found.scale * torch.as_tensor(factors[norm, scope]).sqrt()
    torch.testing.assert_close(found.trajectory.step_sizes, expected.expand(3, -1))
    moved = found.ball.norms(found.trajectory.deltas[-1]) / (found.scale[:, None] if scope == "token" else found.scale)
    assert (moved.amax(dim=-1) > 0.249).all()


@pytest.mark.slow
def test_with_dropout_all_examples_are_tried_again(tmp_path):
    """Their masks depend on their places."""
    _, metrics = one_step(tmp_path, tiny_model(attention_dropout=0.3), epsilon=2.0, **AUTO)
    assert metrics["aajr/monotone_fraction"] == 1
