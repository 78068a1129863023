"""What a run remembers, without a run."""

from __future__ import annotations

from transformers import TrainerState

from aajr_hf.training.runs.state import Memory


def memory(**state) -> tuple[Memory, TrainerState]:
    """Empty, and the state of the trainer in which it lies."""
    kept = TrainerState(**state)
    return Memory("Trainer", lambda: kept), kept
