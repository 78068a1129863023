"""The adversary on a fixed probe: the first rows of the training data, attacked in the same way at every measurement."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device

from ..adversary.ascent import PromptAscent, ascend

# Examples of the probe, in all processes together.
ROWS = 32


class Probe(NamedTuple):
    """
    Means over the probe's examples: the system loss under attack, the share of right answers, and the cosine of the first two
    directions of the ascent (0 if it was not asked for).
    """

    loss: float
    success: float
    cosine: float


class ProbeMixin:
    """Mixin for a TRL trainer with a `_system_loss`: the adversary on a few fixed rows. No random number is drawn."""

    _probe_batches: list[dict[str, Any]] | None = None

    @torch.no_grad()
    def probe(self, steps: int | None = None, with_cosine: bool = False) -> Probe:
        """
        Attack the probe at the full epsilon, without dropout. All processes get the same numbers.

        Args:
            steps: Number of ascent steps, by default K.
            with_cosine: Whether to measure the cosine, which takes one more gradient with one step.
        """
        total = torch.zeros(4, dtype=torch.float64)
        with self._without_dropout():
            for inputs in self._probe():
                total += self._attacked(inputs, steps or self.args.ascent_steps, with_cosine)
        loss, success, cosine, examples = self.accelerator.reduce(
            total.to(self.accelerator.device).float(), "sum"
        ).tolist()
        return Probe(loss / examples, success / examples, cosine / examples)

    def probe_ascents(self) -> Iterator[PromptAscent]:
        """The training's own ascents on the probe, at the full epsilon, without dropout."""
        with self._without_dropout():
            for inputs in self._probe():
                system = self._system_loss(inputs, None)
                policy = system.policy(self.accelerator.unwrap_model(self.model), None)
                yield ascend(self.args, policy, system, 1.0, keep_products=False, penalised=False)

    @contextlib.contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Context of the passes on the probe."""
        was_training = self.model.training
        self.model.eval()
        try:
            with self.compute_loss_context_manager():
                yield
        finally:
            self.model.train(was_training)

    def _probe(self) -> list[dict[str, Any]]:
        if self._probe_batches is None:
            self._probe_batches = self._first_rows()
        return self._probe_batches

    def _attacked(self, inputs: dict[str, Any], steps: int, with_cosine: bool) -> torch.Tensor:
        """Sums over the examples of a batch: their losses under attack, their right answers, their cosines, and 1."""
        system, config, directions = self._system_loss(inputs, None), self.args, steps
        if with_cosine and steps == 1:  # a second step of the same size, for its gradient
            config, directions = copy.copy(config), 2
            config.ascent_steps = 2
        policy = system.policy(self.accelerator.unwrap_model(self.model), None)
        ascent = ascend(config, policy, system, 1.0, keep_products=False, steps=directions, penalised=False)
        logits = policy(ascent.trajectory.deltas[steps])
        losses = system.per_example(logits)
        cosine = losses.new_zeros(())
        if with_cosine:
            cosine = (ascent.trajectory.directions[0] * ascent.trajectory.directions[1]).sum()
        found = [losses.sum(), system.success(logits).sum(), cosine, losses.new_tensor(len(losses))]
        return torch.stack(found).double().cpu()

    def _first_rows(self) -> list[dict[str, Any]]:
        """This process' part of the probe, as micro-batches on its device."""
        rows = list(islice(self.train_dataset, ROWS))[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.args.per_device_train_batch_size
        batches = [self.data_collator(rows[i : i + size]) for i in range(0, len(rows), size)]
        return [send_to_device(batch, self.accelerator.device) for batch in batches]
