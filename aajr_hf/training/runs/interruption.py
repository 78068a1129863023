"""Ctrl-C and SIGTERM end training after the step that is under way, with a checkpoint."""

from __future__ import annotations

import logging
import signal
import time

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(TrainerCallback):
    """
    Saves and ends training at the end of a step during which any process was sent SIGINT or SIGTERM. A second SIGINT, more
    than a second later, raises `KeyboardInterrupt` at once. A context manager: handles signals inside of it, in the main
    thread.

        with StopOnSignal() as stop:
            trainer.add_callback(stop)
            trainer.train()

    Attributes:
        signal: The signal that ended training, in every process; None if none did.
    """

    def __init__(self):
        self.signal: int | None = None
        self._received = 0
        self._since = 0.0

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if not self._received:
            self._received, self._since = number, time.monotonic()
            if PartialState().is_main_process:
                logger.warning("Stopping after this step, with a checkpoint. Ctrl-C again stops at once, without one.")
        # A launcher passes on the Ctrl-C that a terminal has sent to all: within a second, it is the same.
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs) -> None:
        received = self._received
        if PartialState().num_processes > 1:
            # All save together, whichever was told.
            received = int(gather(torch.tensor([received], device=PartialState().device)).max())
        if received:
            self.signal = received
            control.should_save = control.should_training_stop = True
            # It would take its time, and with `save_strategy=best` decide on the saving.
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if self.signal is not None:  # saved already
            control.should_save = control.should_evaluate = False
