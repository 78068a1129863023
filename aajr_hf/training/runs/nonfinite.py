"""
Detection of values that are not finite: in the step in which they occur, before the weights change. The step is saved
so that it can be run again.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config.recipe import recipe_of

logger = logging.getLogger(__name__)

# Keys that are saved with a micro-batch: the states of the RNGs before it, and the divisor of its loss.
RNG, CUDA_RNG, NUM_ITEMS = "rng_state", "cuda_rng_state", "num_items_in_batch"
_DUMP = "dump.json"


class FiniteMixin:
    """
    Mixin for a [`~transformers.Trainer`] with a `memory` ([`~.state.Memory`]): stops the run, or skips the step, if a
    given loss or the gradient norm is not finite. Under loss scaling (fp16), the scaler handles gradients that
    overflow, by lowering the scale.
    """

    # Whether a step is saved for `aajr replay`, which must be able to run it again.
    _replayable = True
    # The measurements of one micro-batch in each process: of the first that was not finite, or else of the last.
    statistics: list[dict[str, float]] = []
    # References to the micro-batches of the current step; copied only if the step is saved.
    _window: list[dict[str, Tensor]] = []
    _not_finite: str | None = None

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._replayable:
            self._window = [*self._window, _kept(inputs, num_items_in_batch)]
        return super().training_step(model, inputs, num_items_in_batch)

    def check_finite(self, losses: dict[str, float], statistics: list[dict[str, float]]) -> bool:
        """
        Return whether the losses of a micro-batch are finite.

        Args:
            losses: The values that must be finite, averaged over processes, so that they are equal in all processes.
            statistics: All measurements of each process, which are saved with a step that is not finite.

        Raises:
            FloatingPointError: if a loss is not finite, unless `on_nonfinite` is `"skip"`.
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
            if not scaled:  # the scaler skips the step, too, and must see these gradients
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
        # The name begins with an underscore, so that the data in the folder is not uploaded.
        folder = Path(self.args.output_dir) / f"_nonfinite-{step}"
        if not skips:
            raise FloatingPointError(
                f"Not finite at step {step}: {what}. The weights have not changed in this step. "
                f"{self._dump(folder, what)}"
                f"Lower `learning_rate`, `regularizer_lambda` or `{self.args.radius_field}`, or set "
                "`on_nonfinite` to skip."
            )
        skipped = self.memory.numbers["skipped_steps"] = self.memory.numbers.get("skipped_steps", 0) + 1
        first = skipped == 1
        self._not_finite = f"{what}. " + (
            f"{self._dump(folder, what)}Later skipped steps are only counted." if first else ""
        )

    def _dump(self, folder: Path, what: str) -> str:
        """Save the step; return a sentence on how to run it again, or on why it could not be saved."""
        if not self._replayable:
            return ""
        said = f"`aajr replay {folder}` runs the step again. "
        # The folder may hold the same step of an earlier run, which had more processes or an adapter.
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._write_dump(folder, what)
        except (OSError, SafetensorError) as error:
            said = f"The step could not be saved in {folder} ({error}). "
        # If one process raises an error, a launcher ends the others, which may still be writing.
        self.accelerator.wait_for_everyone()
        return said

    def _write_dump(self, folder: Path, what: str) -> None:
        """Write the model, the micro-batches of each process, the measurements and the settings."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            # Copied, because tensors that share memory cannot be saved in one file.
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
    """A micro-batch, with the states of the RNGs before it and the divisor of its loss."""
    kept = {name: value for name, value in inputs.items() if isinstance(value, Tensor)} | {RNG: torch.get_rng_state()}
    if torch.cuda.is_available():
        kept[CUDA_RNG] = torch.cuda.get_rng_state()
    if num_items is not None:
        kept[NUM_ITEMS] = torch.as_tensor(num_items).reshape(1)
    return kept


def read_dump(folder: Path) -> tuple[dict[str, Any], list[list[dict[str, Tensor]]]]:
    """
    Read a saved step in which a value was not finite: its record, and for each process its micro-batches, with `RNG`,
    `CUDA_RNG` (on a GPU) and `NUM_ITEMS` beside the tensors of the data.

    Raises:
        OSError, ValueError: if the folder or a file is missing, or a file is not part of a saved step.
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
