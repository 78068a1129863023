"""
Checkpoints that are used only if they are complete. While a folder is being written, a file in it marks it as
incomplete (the same file marks Transformers' own just-in-time checkpoints). Only after this file is removed are older
checkpoints deleted and files uploaded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

INCOMPLETE = "checkpoint-is-incomplete.txt"
_STATE = "trainer_state.json"
# Optimizer files of Transformers, FSDP and DeepSpeed.
_OPTIMIZERS = ("optimizer.pt", "optimizer_*", "optimizer.bin", "global_step*")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """Error for a disk that is too full to save to; its message names the path and the number of bytes needed."""


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The complete checkpoint of the latest step in a run's folder; None if there is none."""
    found = {}
    for checkpoint in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = checkpoint.name.rpartition("-")[2]
        if step.isdecimal() and why_incomplete(checkpoint) is None:
            found[int(step)] = checkpoint
    return found[max(found)] if found else None


def why_incomplete(checkpoint: Path) -> str | None:
    """Why a checkpoint is incomplete; None if a run can be resumed from it."""
    if (checkpoint / INCOMPLETE).exists():
        return "it was not written completely"
    try:
        json.loads((checkpoint / _STATE).read_text())
    except OSError:
        return f"it has no {_STATE}"
    except ValueError:
        return f"its {_STATE} is not JSON"
    if not any(any(checkpoint.glob(name)) for name in _OPTIMIZERS):
        return "it has no optimizer state"
    damaged = next((file.name for file in checkpoint.iterdir() if file.is_file() and _is_damaged(file)), None)
    return None if damaged is None else f"its {damaged} is damaged"


def _is_damaged(file: Path) -> bool:
    if file.suffix in (".pt", ".pth"):
        # The index of a zip file is at its end, so a truncated file has none.
        return not zipfile.is_zipfile(file)
    if file.name.endswith(".safetensors.index.json"):
        try:
            shards = set(json.loads(file.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return True
        return not all((file.parent / shard).is_file() for shard in shards)
    if file.suffix == ".safetensors":
        try:
            # Opening the file compares its length with its header.
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return True
    return False


class CheckpointMixin:
    """
    Mixin for a [`~transformers.Trainer`]: a folder is marked until it is completely saved, and a full disk does not
    damage older files.
    """

    _limit: int | None = None
    _writing = False

    def _save_checkpoint(self, model, trial) -> None:
        output = Path(self._get_output_dir(trial))
        folder = output / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # Trainer would delete older checkpoints while other processes may still be writing.
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._writing = True
        try:
            self._marked(
                folder, lambda: super(CheckpointMixin, self)._save_checkpoint(model, trial), is_checkpoint=True
            )
        finally:
            self._writing = False
            self.args.save_total_limit = self._limit
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            rotate_checkpoints(str(output), self._limit, self.state.best_model_checkpoint, use_mtime=True)

    def save_final(self) -> None:
        """
        Save the model to `output_dir`, marked until it is complete.

        Raises:
            DiskFullError: in every process, if the disk is full. The mark stays, so that the folder is not taken for a
                model.
        """
        output = Path(self.args.output_dir)
        # Without `_internal_call`, Trainer would also push the model.
        self._marked(output, lambda: self.save_model(str(output), _internal_call=True), is_checkpoint=False)

    def _marked(self, folder: Path, save, is_checkpoint: bool) -> None:
        """Save into a folder that is marked meanwhile; if one process fails, all processes fail."""
        needed, error = _bytes_needed(self, is_checkpoint), None
        try:
            if self.args.should_save:
                _begin(folder, needed)
        except OSError as full:
            error = full
        if not self._agree(error):
            raise error or _full(folder, needed)
        try:
            save()
            if self.args.should_save:
                _flush(folder)
        except (Exception, torch.distributed.checkpoint.api.CheckpointException) as failure:
            error = _full(folder, needed) if _is_full(folder, failure) else failure
        if not self._agree(error):
            if self.args.should_save and is_checkpoint:
                shutil.rmtree(folder, ignore_errors=True)
            raise error or _full(folder, needed)
        if self.args.should_save:
            (folder / INCOMPLETE).unlink()

    def _agree(self, error: BaseException | None) -> bool:
        """Whether all processes have succeeded; waits for all of them."""
        failed = torch.tensor([int(error is not None)], device=self.accelerator.device)
        return not bool(self.accelerator.gather(failed).any())

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # The arguments are saved with the user's `save_total_limit`.
        with self._users_limit():
            super()._save(output_dir, state_dict)

    @contextlib.contextmanager
    def _users_limit(self) -> Iterator[None]:
        kept = self.args.save_total_limit
        self.args.save_total_limit = self._limit if self._writing else kept
        yield
        self.args.save_total_limit = kept

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writing:
            super()._push_from_checkpoint(checkpoint_folder)

    def _run_epoch(self, *args, **kwargs) -> None:
        # If a run is resumed from its last step, Trainer would take one more step.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


def _begin(folder: Path, needed: int) -> None:
    if shutil.disk_usage(_existing(folder)).free < needed:
        raise _full(folder, needed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INCOMPLETE).write_text(
        "This folder is incomplete: it is still being written, or its run ended while it was being written.\n"
    )


def _is_full(folder: Path, error: BaseException) -> bool:
    if isinstance(error, DiskFullError) or getattr(error, "errno", None) in _FULL:
        return True
    # safetensors, torch and its distributed checkpoints have their own messages for a full disk.
    told = ("No space left", "quota exceeded", "PytorchStreamWriter failed writing")
    return any(words in str(error) for words in told) or (
        isinstance(error, RuntimeError) and shutil.disk_usage(_existing(folder)).free < 2**12
    )


def _full(folder: Path, needed: int) -> DiskFullError:
    free = shutil.disk_usage(_existing(folder)).free
    return DiskFullError(
        f"No room for {folder}: it needs about {needed:,} bytes, but only {free:,} are free. Older checkpoints are "
        "unchanged: free some space, or set `save_total_limit`, and continue with --resume_from_checkpoint auto"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _bytes_needed(trainer, is_checkpoint: bool) -> int:
    """
    Size of the newest checkpoint; before the first checkpoint, the size of the weights and of Adam's two moments.
    """
    newest = newest_checkpoint(trainer.args.output_dir) if is_checkpoint else None
    if newest is not None:
        return sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    saved = trainable if hasattr(trainer.model, "peft_config") else list(trainer.model.parameters())
    moments = 2 * sum(p.nbytes for p in trainable) if is_checkpoint and not trainer.args.save_only_model else 0
    average = sum(4 * p.numel() for p in trainable) if is_checkpoint and trainer.args.ema_decay is not None else 0
    kept = (
        sum(p.nbytes for p in trainable) + moments
        if is_checkpoint and trainer.args.rollback_tolerance is not None
        else 0
    )
    return sum(p.nbytes for p in saved) + moments + average + kept


def _flush(folder: Path) -> None:
    """Write all files to the disk before the mark is removed, so that a loss of power cannot lose them."""
    for file in folder.rglob("*"):
        if file.is_file() and not any(
            part.startswith(PREFIX_CHECKPOINT_DIR) for part in file.relative_to(folder).parts[:-1]
        ):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
