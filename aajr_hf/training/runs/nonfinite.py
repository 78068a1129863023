"""
Numbers that are not finite: found in the step where they arise, before the weights change, and kept so that the step can be
run again.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config.recipe import recipe_of

logger = logging.getLogger(__name__)

# Beside the tensors of a micro-batch: the states of the RNGs before it, and what its loss is divided by.
RNG, CUDA_RNG, NUM_ITEMS = "rng_state", "cuda_rng_state", "num_items_in_batch"
_DUMP = "dump.json"


class FiniteMixin:
    """
    For a [`~transformers.Trainer`] with a `memory` ([`~.state.Memory`]): stops, or skips the step, where `losses` that it is told of or the gradient's norm are
    not finite. Under loss scaling (fp16) gradients that overflow are the scaler's matter, which lowers the scale.
    """

    # Whether `aajr replay` can run a step again, which it is kept for.
    _replayable = True
    # What a micro-batch gave, for each process: the first that was not finite, or else the last.
    statistics: list[dict[str, float]] = []
    # The micro-batches of the step that is under way: references, copied where one must be kept.
    _window: list[dict[str, Tensor]] = []
    _not_finite: str | None = None

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._replayable:
            self._window = [*self._window, _kept(inputs, num_items_in_batch)]
        return super().training_step(model, inputs, num_items_in_batch)

    def check_finite(self, losses: dict[str, float], statistics: list[dict[str, float]]) -> bool:
        """
        Whether what a micro-batch gave is finite.

        Args:
            losses: What must be, averaged over processes: the same in each of them.
            statistics: All that was measured, for each process: kept with what was not finite.

        Raises:
            FloatingPointError: if not, unless `on_nonfinite` is `"skip"`.
        """
        if self._not_finite is None:
            self.statistics = statistics
        if all(math.isfinite(value) for value in losses.values()):
            return True
        self._found(", ".join(f"{name} = {value:.4g}" for name, value in losses.items()))
        return False

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None or (self.is_deepspeed_enabled and self.args.fp16)
        if grad_norm is not None and not scaled and not math.isfinite(grad_norm):
            self._found(f"gradient norm = {float(grad_norm)}")
        if self._not_finite is not None:
            logger.warning(f"Step {self.state.global_step} is skipped: {self._not_finite}")
            if not scaled:  # the scaler skips it, too, and must see why
                for parameter in model.parameters():
                    parameter.grad = None
        self._window, self._not_finite = [], None
        return grad_norm

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        skipped = self.memory.numbers.get("skipped_steps")
        super().log(logs | {"aajr/skipped_steps": skipped} if skipped else logs, *args, **kwargs)

    def _found(self, what: str) -> None:
        if self._not_finite is not None:  # in an earlier micro-batch of this step
            return
        step, skips = self.state.global_step, self.args.on_nonfinite == "skip"
        # Of an underscore, so that the data in it is not uploaded.
        folder = Path(self.args.output_dir) / f"_nonfinite-{step}"
        if not skips:
            raise FloatingPointError(
                f"Not finite at step {step}: {what}. The weights are those of the last step. {self._dump(folder, what)}Lower "
                f"`learning_rate`, `regularizer_lambda` or `{self.args.radius_field}`, or set `on_nonfinite` to skip."
            )
        skipped = self.memory.numbers["skipped_steps"] = self.memory.numbers.get("skipped_steps", 0) + 1
        first = skipped == 1
        self._not_finite = f"{what}. " + (f"{self._dump(folder, what)}Later ones are counted alone." if first else "")

    def _dump(self, folder: Path, what: str) -> str:
        """Keep the step; say what runs it again, or why it could not be kept."""
        if not self._replayable:
            return ""
        said = f"`aajr replay {folder}` runs the step again. "
        try:
            self._write_dump(folder, what)
        except (OSError, SafetensorError) as error:
            said = f"The step could not be kept in {folder} ({error}). "
        # A process that raises has a launcher end those that are still writing.
        self.accelerator.wait_for_everyone()
        return said

    def _write_dump(self, folder: Path, what: str) -> None:
        """The model, and for each process its micro-batches; what was measured, and the settings."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            # Copied, because tensors of one storage cannot be saved beside each other.
            f"{i}.{name}": value.detach().cpu().clone()
            for i, batch in enumerate(self._window)
            for name, value in batch.items()
        }
        save_file(tensors, folder / f"batch-{self.accelerator.process_index}.safetensors")
        self.save_model(str(folder), _internal_call=True)
        if self.accelerator.is_main_process:
            record = {
                "what": what,
                "step": self.state.global_step,
                "max_steps": self.state.max_steps,
                "processes": [{name: repr(value) for name, value in values.items()} for values in self.statistics],
                "settings": recipe_of(self.args),
                "memory": self.memory.numbers,
            }
            (folder / _DUMP).write_text(json.dumps(record, indent=2) + "\n")


def _kept(inputs: dict[str, Any], num_items: Tensor | int | None) -> dict[str, Tensor]:
    """A micro-batch, with the states of the RNGs before it and what its loss is divided by."""
    kept = {name: value for name, value in inputs.items() if isinstance(value, Tensor)} | {RNG: torch.get_rng_state()}
    if torch.cuda.is_available():
        kept[CUDA_RNG] = torch.cuda.get_rng_state()
    if num_items is not None:
        kept[NUM_ITEMS] = torch.as_tensor(num_items).reshape(1)
    return kept


def read_dump(folder: Path) -> tuple[dict[str, Any], list[list[dict[str, Tensor]]]]:
    """
    What was written where a number was not finite: the record, and for each process the micro-batches of the step, with `RNG`, `CUDA_RNG` (on a GPU) and `NUM_ITEMS` beside the tensors of the data.

    Raises:
        OSError, ValueError: if there is no such folder, or a file is missing or is not what was written.
    """
    record = json.loads((folder / _DUMP).read_text())
    fields = {"what", "step", "max_steps", "processes", "settings", "memory"}
    if not isinstance(record, dict) or not fields <= record.keys():
        raise ValueError(f"{folder / _DUMP} is not the record of a step.")
    processes = []
    for file in sorted(folder.glob("batch-*.safetensors"), key=lambda file: int(file.stem.rpartition("-")[2])):
        batches: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(file).items():
            index, _, key = name.partition(".")
            batches.setdefault(int(index), {})[key] = value
        processes.append([batches[index] for index in sorted(batches)])
    return record, processes
