"""
Checkpoints that are whole or not used. A checkpoint that is being written holds a file that says so (the one with which
Transformers marks its own just-in-time checkpoints); older ones are deleted and anything is uploaded only after that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

INCOMPLETE = "checkpoint-is-incomplete.txt"
_STATE = "trainer_state.json"


class DiskFullError(OSError):
    """There is no room for a checkpoint: names the path and the bytes that are needed."""


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The whole checkpoint of the latest step in a run's folder; None if there is none."""
    found = {}
    for checkpoint in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = checkpoint.name.rpartition("-")[2]
        if step.isdecimal() and why_not_whole(checkpoint) is None:
            found[int(step)] = checkpoint
    return found[max(found)] if found else None


def why_not_whole(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if a run can be resumed from it."""
    if (checkpoint / INCOMPLETE).exists():
        return "it was not written to its end"
    try:
        json.loads((checkpoint / _STATE).read_text())
    except OSError:
        return f"it has no {_STATE}"
    except ValueError:
        return f"its {_STATE} is not JSON"
    for file in checkpoint.glob("*.safetensors"):
        try:
            # Compares the length of the file with what its header says.
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return f"its {file.name} is damaged"
    return None


class CheckpointMixin:
    """For a [`~transformers.Trainer`]: what it saves is marked until it is whole, and a full disk harms nothing older."""

    _writing = False

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # Trainer deletes older checkpoints as its last act, when other processes may still be writing.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._writing = True
        try:
            with _no_half(folder, _bytes_needed(self), self.args.should_save):
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.save_total_limit = limit
            self._writing = False
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writing:
            super()._push_from_checkpoint(checkpoint_folder)


@contextlib.contextmanager
def _no_half(folder: Path, needed: int, writes: bool) -> Iterator[None]:
    """Mark a checkpoint while it is written; leave nothing of it, and raise a `DiskFullError`, where it does not fit."""
    if not writes:
        yield
        return
    if shutil.disk_usage(_existing(folder)).free < needed:
        raise _full(folder, needed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INCOMPLETE).write_text("This checkpoint is being written, or was when its run ended.\n")
        yield
        _flush(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        # safetensors and torch have their own ways to say it.
        if getattr(error, "errno", None) == errno.ENOSPC or _is_full(folder, error):
            shutil.rmtree(folder, ignore_errors=True)
            raise _full(folder, needed) from error
        raise
    (folder / INCOMPLETE).unlink()


def _is_full(folder: Path, error: Exception) -> bool:
    told = "No space left" in str(error) or "PytorchStreamWriter failed writing" in str(error)
    return told or (isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 2**12)


def _full(folder: Path, needed: int) -> DiskFullError:
    free = shutil.disk_usage(_existing(folder)).free
    return DiskFullError(
        f"No room for the checkpoint {folder}: it needs about {needed:,} bytes, and {free:,} are free. Older checkpoints "
        "are as they were: free some space, or set `save_total_limit`, and go on with --resume_from_checkpoint auto"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _bytes_needed(trainer) -> int:
    """The size of the newest checkpoint, or before the first one what weights and two moments of Adam take."""
    newest = newest_checkpoint(trainer.args.output_dir)
    if newest is not None:
        return sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    saved = trainable if hasattr(trainer.model, "peft_config") else list(trainer.model.parameters())
    moments = 0 if trainer.args.save_only_model else 2 * sum(p.nbytes for p in trainable)
    return sum(p.nbytes for p in saved) + moments


def _flush(folder: Path) -> None:
    """To the disk, before the mark goes: what a computer that loses its power does not lose."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
