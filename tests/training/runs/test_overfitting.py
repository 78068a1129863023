"""Catastrophic overfitting: the cosine of the first two directions, the comparison with ten steps, random starts."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from aajr_hf.training.runs.overfitting import OverfittingWatch
from tests.support.completions import grpo
from tests.support.memory import memory
from tests.support.reference import Reference
from tests.support.tiny import dataset, one_step, tiny_model, trainer


def reference_for(run, **settings):
    inputs = run.data_collator(list(run.train_dataset)[:4])
    return Reference(tiny_model(), inputs, **settings)


def test_the_logged_cosine_is_that_of_the_first_two_directions(tmp_path):
    _, log = one_step(tmp_path, data=dataset(4))
    reference = reference_for(trainer(tmp_path, data=dataset(4)))
    found = [sum((u * v).sum() for u, v in [reference.ascend(b)[1][:2]]) for b in reference.examples]
    assert log["aajr/direction_cosine"] == pytest.approx(float(sum(found) / 4), rel=1e-5)
    _, log = one_step(tmp_path, data=dataset(4), ascent_steps=1)
    assert "aajr/direction_cosine" not in log


def test_with_one_step_the_cosine_of_the_probe_takes_the_gradient_at_its_end(tmp_path):
    run = trainer(tmp_path, data=dataset(4), ascent_steps=1, aajr_warmup_ratio=0.0)
    found, plain = run.probe(with_cosine=True), run.probe()
    assert (found.loss, found.success, plain.cosine) == (plain.loss, plain.success, 0)
    reference = reference_for(run, steps=1)
    cosines = []
    for b in reference.examples:
        (_, end), (first,) = reference.ascend(b)
        point = end.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(reference.loss(b, reference.embeddings(b).detach() + point), point)
        gradient = gradient * reference.prompt(b)
        cosines.append(float((gradient / gradient.norm() * first).sum()))
    assert found.cosine == pytest.approx(sum(cosines) / 4, rel=1e-4)
    losses = [reference.adversarial(b).item() for b in reference.examples]
    assert found.loss == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert run.probe(steps=10).loss >= found.loss - 1e-6
    # A step that stays inside the ball is as long with the second one.
    short = trainer(tmp_path, data=dataset(4), ascent_steps=1, ascent_step_size=0.05)
    assert short.probe(with_cosine=True).loss == short.probe().loss


def test_it_warns_once_where_the_two_part_ways(caplog):
    shares = iter([(0.5, 0.4), (0.9, 0.66), (0.9, 0.6), (1.0, 0.0)])

    def measure():
        own, strong = next(shares)
        return {"own": own, "strong": strong, "cosine": 0.1}

    watch = OverfittingWatch(2, measure, memory()[0])
    warned = []
    with caplog.at_level(logging.WARNING):
        for step in range(1, 9):
            watch.on_step_end(None, SimpleNamespace(global_step=step), None)
            warned.append(sum("catastrophic overfitting" in record.message for record in caplog.records))
    assert warned == [0, 0, 0, 0, 0, 1, 1, 1] and watch.state["own"] == 1.0


def same(left, right) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_watching_changes_nothing_and_a_random_start_only_the_ascent(tmp_path):
    settings = {"ascent_steps": 1, "max_steps": 2, "learning_rate": 0.1, "clean_loss_weight": 1.0}
    plain, log = one_step(tmp_path, **settings)
    watched, seen = one_step(tmp_path, overfitting_interval=1, **settings)
    assert same(plain, watched) and log["aajr/clean_loss"] == seen["aajr/clean_loss"]
    assert 0 <= seen["aajr/probe_success_10_steps"] <= seen["aajr/probe_success"] + 0.2 <= 1.2
    assert -1 <= seen["aajr/probe_direction_cosine"] <= 1 and "aajr/probe_success" not in log
    runs = [one_step(tmp_path, ascent_start="random", **settings) for _ in range(2)]
    assert same(runs[0][0], runs[1][0]) and not same(runs[0][0], plain)
    # The clean loss is that of the unperturbed prompt, and so is the accuracy.
    for name in ("aajr/clean_loss", "mean_token_accuracy", "entropy"):
        assert runs[0][1][name] == pytest.approx(log[name], rel=1e-5)


def test_random_starts_lie_in_the_ball_and_differ(tmp_path):
    run = trainer(tmp_path, data=dataset(4), ascent_start="random")
    inputs = run.data_collator(list(run.train_dataset))
    starts = []
    for _ in range(2):
        system = run._system_loss(inputs, None)
        ascent = run._ascend(run.model, system, None)
        start = ascent.trajectory.deltas[0]
        assert (start.flatten(1).norm(dim=1) <= ascent.ball.epsilon).all() and start.flatten(1).any(dim=1).all()
        assert not start[~system.batch.perturbable].any()
        starts.append(start)
    assert not torch.equal(*starts)


@pytest.mark.parametrize("attribute", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_split_parameters_are_refused(tmp_path, attribute):
    run = trainer(tmp_path, overfitting_interval=5)
    setattr(run, attribute, True)
    with pytest.raises(ValueError, match="`overfitting_interval`.*equal numbers of passes"):
        run._begin_overfitting_watch()


def test_sampled_completions_are_not_watched(tmp_path):
    for name, value in (("overfitting_interval", 5), ("ascent_start", "random")):
        with pytest.raises(ValueError, match=f"`{name}` must be .*with GRPO"):
            grpo(tmp_path, tiny_model(torch.float32), **{name: value})
