"""Metrics of an optimizer step: told apart by micro-batch and process, gathered once, and in time to stop a step that is not finite."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from aajr_hf.training.runs.nonfinite import read_dump
from aajr_hf.training.runs.step_metrics import StepMetrics, mean_over_processes
from tests.support.memory import memory
from tests.support.tiny import dataset, tiny_model, trainer


def test_micro_batches_and_processes_are_told_apart():
    metrics = StepMetrics()
    metrics.add({"loss": torch.tensor(1.0), "penalty": torch.tensor(2.0)})
    metrics.add({"loss": torch.tensor(3.0)})  # another micro-batch, with fewer
    two = SimpleNamespace(gather=lambda row: torch.cat([row, 10 * row]))
    first, second = metrics.gather(two)
    assert first == [{"loss": 1.0, "penalty": 2.0}, {"loss": 10.0, "penalty": 20.0}]
    assert second == [{"loss": 3.0}, {"loss": 30.0}]
    assert mean_over_processes(first) == {"loss": 5.5, "penalty": 11.0}
    assert metrics.gather(two) == []  # begun anew


@pytest.mark.slow
@pytest.mark.parametrize("budget", [None, 1.0])
def test_an_optimizer_step_gathers_once(tmp_path, monkeypatch, budget):
    settings = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2, "max_steps": 2}
    run = trainer(tmp_path, data=dataset(16), amplification_budget=budget, **settings)
    calls, gather = [], StepMetrics.gather
    monkeypatch.setattr(StepMetrics, "gather", lambda self, of: calls.append(len(self._names)) or gather(self, of))
    run.train()
    assert calls == [3, 3]


@pytest.mark.slow
def test_a_number_that_is_not_finite_in_the_first_micro_batch_stops_the_step(tmp_path, monkeypatch):
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    model = tiny_model()
    run = trainer(tmp_path, model, data=dataset(16), **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen, system_loss = [], run._system_loss

    def first_is_nan(inputs, num_items):
        system = system_loss(inputs, num_items)
        mean, is_first = system.mean, not seen
        seen.append(inputs)
        monkeypatch.setattr(system, "mean", lambda *args: mean(*args) * (float("nan") if is_first else 1))
        return system

    monkeypatch.setattr(run, "_system_loss", first_is_nan)
    with pytest.raises(FloatingPointError, match="Not finite at step 0: loss = nan"):
        run.train()
    assert len(seen) == 2 and all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    record, ((one, two),) = read_dump(tmp_path / "_nonfinite-0")
    assert record["processes"][0]["loss"] == "nan"
    assert torch.equal(one["input_ids"], seen[0]["input_ids"]) and torch.equal(two["input_ids"], seen[1]["input_ids"])


def test_what_is_remembered_lies_in_the_state_that_the_trainer_has_now():
    kept, state = memory()
    kept.section("budget", multiplier=1.0)["multiplier"] = 2.0
    assert kept.section("budget", multiplier=1.0) == {"multiplier": 2.0}
    assert state.stateful_callbacks["Trainer"]["attributes"] == {"budget": {"multiplier": 2.0}}
    state.stateful_callbacks = {}  # as a resumed run's that remembers nothing
    assert kept.numbers == {}
