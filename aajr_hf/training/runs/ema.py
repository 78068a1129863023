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

# The model's folder in `output_dir`, what marks it as an average, and the file in a checkpoint.
FOLDER, _MARK, _FILE = "ema", "average.json", "ema.safetensors"


def average_in(folder: str | Path) -> Path | None:
    """The average that lies beside the model in a folder, if there is one that is whole."""
    found = Path(folder) / FOLDER
    return found if is_average(found) and not (found / INCOMPLETE).exists() else None


def is_average(folder: str | Path) -> bool:
    """Whether the model in a folder is the average of a run's weights."""
    return (Path(folder) / _MARK).is_file()


def remove_average(folder: str | Path) -> None:
    """Of an earlier run in a folder; any other model in a folder of that name stays."""
    if is_average(Path(folder) / FOLDER):
        shutil.rmtree(Path(folder) / FOLDER)


class AverageMixin:
    """For a trainer with [`~aajr_hf.training.runs.checkpoints.CheckpointMixin`]: `ema_decay`."""

    average: WeightAverage | None = None

    def _begin_average(self) -> None:
        """If one is asked for; raise ValueError where parameters are not whole."""
        if self.args.ema_decay is None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("`ema_decay` needs whole parameters: unset it, or train without FSDP and DeepSpeed.")
        self.average = WeightAverage(self.model, self.args.ema_decay)
        self.add_callback(self.average)

    def save_final(self) -> None:
        """As [`CheckpointMixin.save_final`]; the average's model lies in `output_dir/ema`, where no other run's stays."""
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
            self._marked(folder, save, is_new=False)

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
    After the n-th optimizer step, `average <- d average + (1 - d) weights` with `d = min(decay, (1 + n) / (10 + n))`, so that short
    runs forget where they began. Of the trainable parameters alone, in float32: a step of bfloat16 would often round to none.

    Args:
        model: The model that is trained, without wrappers.
        decay: The largest d, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages: dict[str, Tensor] | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if self._averages is None:  # else a checkpoint's
            self._averages = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = [p.detach().float() for p in self._parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self._averages.values()), weights, None)

    def save(self, checkpoint: str | Path) -> None:
        """Into a checkpoint."""
        save_file(self._averages, Path(checkpoint) / _FILE)

    def load(self, checkpoint: str | Path) -> None:
        """
        From a checkpoint.

        Raises:
            ValueError: if it has no average, or one of other parameters.
        """
        file = Path(checkpoint) / _FILE
        found = load_file(file) if file.is_file() else {}
        if found.keys() != self._parameters.keys():
            raise ValueError(
                f"`ema_decay`: {checkpoint} has no average of the weights that are trained: resume without `ema_decay`, or begin "
                "anew."
            )
        self._averages = {name: found[name].to(p.device) for name, p in self._parameters.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average's weights."""
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
