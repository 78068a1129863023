"""Rollback: if the attacked loss of a fixed probe rises, training goes back to its last good state with half the rate."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from .overfitting import STEPS
from .state import Memory

logger = logging.getLogger(__name__)

# The file of the last good state in a checkpoint.
_FILE = "rollback.pt"


class RollbackMixin:
    """
    Mixin for a trainer with a `memory` ([`~.state.Memory`]) and a `probe`
    ([`~aajr_hf.training.trainers.probe.ProbeMixin`]): the rollback of `rollback_tolerance`.
    """

    rollback: Rollback | None = None

    def _begin_rollback(self) -> None:
        """Add the callback if `rollback_tolerance` is set; raise ValueError if weights or optimizer are sharded."""
        if self.args.rollback_tolerance is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "`rollback_tolerance` does not work with FSDP and DeepSpeed, where no process has the whole state to go "
                "back to: unset it, or train without them."
            )
        self.rollback = Rollback(
            self.args.rollback_tolerance,
            self.args.rollback_interval,
            # One gradient finds little where an agent is certain: its loss under one step rises as it becomes robust.
            lambda: self.probe(steps=max(self.args.ascent_steps, STEPS)).loss,
            self._tensors_to_go_back,
            self.memory,
        )
        self.add_callback(self.rollback)

    def _tensors_to_go_back(self) -> dict[str, Tensor]:
        """The trained weights and, if there is one, their moving average."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        average = {} if self.average is None else self.average.tensors
        return trained | {f"average of {name}": value for name, value in average.items()}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.rollback is not None and self.args.should_save:
            self.rollback.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.rollback is not None and checkpoint is not None:
            self.rollback.load(checkpoint)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        found = {}
        if self.rollback is not None and "loss" in logs:
            found = {f"aajr/{name}": self.rollback.state[name] for name in ("probe_loss", "rollbacks")}
        super().log(logs | found if found else logs, *args, **kwargs)  # TRL adds to what it is given


class Rollback(TrainerCallback):
    """
    Callback that measures a probe after every n-th optimizer step. A state whose loss is above the lowest accepted loss
    by at most the tolerance is accepted and kept. Otherwise the kept state is put back, and the learning rate is
    halved, also in the scheduler, so that it stays halved. A loss that is not a number is never accepted, except with
    an infinite tolerance, which changes nothing.

    The state is the weights and the optimizer's state. The order of the data, the schedules and the numbers in `memory`
    go on.

    Args:
        tolerance: Largest rise of the loss, at least 0.
        interval: n, at least 1.
        probe: Function that measures the loss; must give the same number in all processes.
        tensors: Function that returns the tensors to put back, by name.
        memory: The numbers that checkpoints keep.
    """

    def __init__(
        self,
        tolerance: float,
        interval: int,
        probe: Callable[[], float],
        tensors: Callable[[], dict[str, Tensor]],
        memory: Memory,
    ):
        self.tolerance, self.interval, self._probe, self._tensors = tolerance, interval, probe, tensors
        self._memory = memory
        self._weights: dict[str, Tensor] = {}
        self._moments: list[dict[str, Any]] = []

    @property
    def state(self) -> dict[str, Any]:
        """`probe_loss`, the last measurement; `lowest`, of the accepted ones; `step` of the kept state; `rollbacks`."""
        return self._memory.section("rollback", probe_loss=math.nan, lowest=math.inf, step=0, rollbacks=0)

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs) -> None:
        if state.global_step == 0:  # otherwise the kept state comes from a checkpoint
            self._accept(self._probe(), 0, optimizer)

    def on_step_end(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs) -> None:
        if state.global_step % self.interval:
            return
        loss, known = self._probe(), self.state
        if self.tolerance == math.inf or loss <= known["lowest"] + self.tolerance:
            self._accept(loss, state.global_step, optimizer)
            return
        known["probe_loss"], known["rollbacks"] = loss, known["rollbacks"] + 1
        self._put_back(optimizer)
        _halve(optimizer, lr_scheduler)
        logger.warning(
            f"Step {state.global_step}: the attacked loss of the probe is {loss:.4g}, and was {known['lowest']:.4g}. Training "
            f"goes back to the weights of step {known['step']}, with half the learning rate."
        )

    def _accept(self, loss: float, step: int, optimizer) -> None:
        known = self.state
        known |= {"probe_loss": loss, "lowest": min(known["lowest"], loss), "step": step}
        self._weights = {name: value.detach().clone() for name, value in self._tensors().items()}
        self._moments = [copy.deepcopy(optimizer.state.get(p, {})) for p in _parameters(optimizer)]

    @torch.no_grad()
    def _put_back(self, optimizer) -> None:
        for name, value in self._tensors().items():
            value.copy_(self._weights[name])
        for parameter, moments in zip(_parameters(optimizer), self._moments, strict=True):
            now = optimizer.state[parameter]
            # A kept state from a checkpoint is on the CPU.
            optimizer.state[parameter] = {
                name: value.to(now[name].device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
                for name, value in moments.items()
            }

    def save(self, checkpoint: str | Path) -> None:
        """Save the kept state in a checkpoint."""
        torch.save({"weights": self._weights, "optimizer": self._moments}, Path(checkpoint) / _FILE)

    def load(self, checkpoint: str | Path) -> None:
        """
        Load the kept state from a checkpoint.

        Raises:
            ValueError: if the checkpoint has no such state, or that of other weights.
        """
        file = Path(checkpoint) / _FILE
        found = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else {"weights": {}}
        if found["weights"].keys() != self._tensors().keys():
            raise ValueError(
                f"`rollback_tolerance`: {checkpoint} has no state of these weights to go back to: resume without "
                "`rollback_tolerance`, or start a new run."
            )
        self._weights, self._moments = found["weights"], found["optimizer"]


def _parameters(optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _halve(optimizer, scheduler) -> None:
    """Halve the learning rate now and in all later steps."""
    for group in optimizer.param_groups:
        for name in {"lr", "initial_lr"} & group.keys():
            group[name] = group[name] / 2
    scheduler = getattr(scheduler, "scheduler", scheduler)  # within Accelerate's
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
