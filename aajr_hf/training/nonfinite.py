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
from safetensors.torch import load_file, save_file
from torch import Tensor

from .recipe import recipe_of

logger = logging.getLogger(__name__)

_DUMP = "dump.json"
_RNG = "rng_state"


class FiniteMixin:
    """
    For a [`~transformers.Trainer`]: stops, or skips the step, where `losses` that it is told of or the gradient's norm are
    not finite. Under loss scaling (fp16) gradients that overflow are the scaler's matter, which lowers the scale.
    """

    # What the last micro-batch gave, for each process.
    statistics: list[dict[str, float]] = []
    # The micro-batches of the step that is under way, each with the state of the RNG before it.
    _window: list[tuple[dict[str, Any], Tensor]] = []
    _not_finite: str | None = None

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._window = [*self._window, (dict(inputs), torch.get_rng_state())]
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
        self.statistics = statistics
        if all(math.isfinite(value) for value in losses.values()):
            return True
        self._found(", ".join(f"{name} = {value:.4g}" for name, value in losses.items()))
        return False

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None
        if grad_norm is not None and not scaled and self._not_finite is None and not math.isfinite(grad_norm):
            self._found(f"gradient norm = {float(grad_norm)}")
        if self._not_finite is not None:
            logger.warning(f"Step {self.state.global_step} is skipped: {self._not_finite}.")
            if not scaled:  # the scaler skips it, too, and must see why
                for parameter in model.parameters():
                    parameter.grad = None
        self._window, self._not_finite = [], None
        return grad_norm

    def _found(self, what: str) -> None:
        skipped = self._count_skipped() if self.args.on_nonfinite == "skip" else 0
        if skipped > 1:
            self._not_finite = what
            return
        # Of an underscore, so that the data in it is not uploaded.
        folder = Path(self.args.output_dir) / f"_nonfinite-{self.state.global_step}"
        self._dump(folder, what)
        kept = f"`aajr replay {folder}` runs the step again."
        if skipped:
            self._not_finite = f"{what}. {kept} Later ones are counted, but not kept"
            return
        raise FloatingPointError(
            f"Not finite at step {self.state.global_step}: {what}. The weights are those of the last step. {kept} Lower "
            "`learning_rate`, `regularizer_lambda` or `epsilon`, or set `on_nonfinite` to skip."
        )

    def _count_skipped(self) -> int:
        memory = self.memory
        memory["skipped_steps"] = memory.get("skipped_steps", 0) + 1
        return memory["skipped_steps"]

    @property
    def memory(self) -> dict[str, Any]:
        """What is to be remembered in checkpoints: where Trainer keeps what callbacks do, in trainer_state.json."""
        kept = self.state.stateful_callbacks.setdefault(type(self).__name__, {"args": {}, "attributes": {}})
        return kept["attributes"]

    def _dump(self, folder: Path, what: str) -> None:
        """The model, and for each process its micro-batches; what was measured, and the settings."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for i, (inputs, rng) in enumerate(self._window):
            given = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
            tensors |= {
                f"{i}.{name}": value.detach().cpu().contiguous() for name, value in (given | {_RNG: rng}).items()
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
            }
            (folder / _DUMP).write_text(json.dumps(record, indent=2) + "\n")
        # A process that raises has a launcher end those that are still writing.
        self.accelerator.wait_for_everyone()


def read_dump(folder: Path) -> tuple[dict[str, Any], list[list[dict[str, Tensor]]]]:
    """
    What was written where a number was not finite: the record, and for each process its micro-batches, with the state of
    the RNG before each as `rng_state`.

    Raises:
        OSError: if there is no such folder, or a file is missing.
    """
    record = json.loads((folder / _DUMP).read_text())
    processes = []
    for file in sorted(folder.glob("batch-*.safetensors"), key=lambda file: int(file.stem.rpartition("-")[2])):
        batches: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(file).items():
            index, _, key = name.partition(".")
            batches.setdefault(int(index), {})[key] = value
        processes.append([batches[index] for index in sorted(batches)])
    return record, processes
