"""An exponential moving average of the trained weights, kept beside them and saved as a second model."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from .checkpoints import INCOMPLETE

# The folder of the average's model in `output_dir`, the file that marks it as an average, and the file in a
# checkpoint.
FOLDER, _MARK, _FILE = "ema", "average.json", "ema.safetensors"


def average_in(folder: str | Path) -> Path | None:
    """The complete average beside the model in a folder; None if there is none."""
    found = Path(folder) / FOLDER
    return found if is_average(found) and not (found / INCOMPLETE).exists() else None


def is_average(folder: str | Path) -> bool:
    """Whether the model in a folder is the average of a run's weights."""
    return (Path(folder) / _MARK).is_file()


def remove_average(folder: str | Path) -> None:
    """Remove the average of an earlier run in a folder. Any other model in the same place stays."""
    if is_average(Path(folder) / FOLDER):
        shutil.rmtree(Path(folder) / FOLDER)


class AverageMixin:
    """Mixin for a trainer with [`~aajr_hf.training.runs.checkpoints.CheckpointMixin`]: the average of `ema_decay`."""

    average: WeightAverage | None = None

    def _begin_average(self) -> None:
        """Begin an average if `ema_decay` is set; raise ValueError if parameters are sharded."""
        if self.args.ema_decay is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "`ema_decay` does not work with sharded parameters: unset it, or train without FSDP and DeepSpeed."
            )
        self.average = WeightAverage(self.model, self.args.ema_decay)
        self.add_callback(self.average)

    def save_final(self) -> None:
        """
        Save as [`CheckpointMixin.save_final`] does, and save the average's model in `output_dir/ema`. An average of an
        earlier run is removed there.
        """
        if self.args.should_save:
            remove_average(self.args.output_dir)
        super().save_final()
        if self.average is None:
            return
        folder = Path(self.args.output_dir) / FOLDER

        def save() -> None:
            if self.args.should_save:
                (folder / _MARK).write_text(json.dumps({"decay": self.average.decay, "step": self.state.global_step}))
            self.save_model(str(folder), _internal_call=True)

        with self.average.in_place():
            self._marked(folder, save, is_checkpoint=False)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(self.state.best_model_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            self.average.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            self.average.load(checkpoint)


class WeightAverage(TrainerCallback):
    """
    Callback that averages the trainable parameters. After the n-th optimizer step,
    `average <- d average + (1 - d) weights` with `d = min(decay, (1 + n) / (10 + n))`, so that short runs forget their
    initial weights. The average is in float32, because in bfloat16 many changes would be rounded to zero.

    Args:
        model: The trained model, without wrappers.
        decay: The largest d, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages: dict[str, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The average of each parameter, by name."""
        return self._averages or {}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if self._averages is None:  # otherwise it comes from a checkpoint
            self._averages = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = [p.detach().float() for p in self._parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self._averages.values()), weights, None)

    def save(self, checkpoint: str | Path) -> None:
        """Save the average in a checkpoint."""
        save_file(self._averages, Path(checkpoint) / _FILE)

    def load(self, checkpoint: str | Path) -> None:
        """
        Load the average from a checkpoint.

        Raises:
            ValueError: if the checkpoint has no average, or an average of other parameters.
        """
        file = Path(checkpoint) / _FILE
        found = load_file(file) if file.is_file() else {}
        if found.keys() != self._parameters.keys():
            raise ValueError(
                f"`ema_decay`: {checkpoint} has no average of the trained weights: resume without `ema_decay`, or "
                "start a new run."
            )
        self._averages = {name: found[name].to(p.device) for name, p in self._parameters.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model has the average's weights."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
