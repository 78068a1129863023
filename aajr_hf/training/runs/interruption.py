"""Ctrl-C and SIGTERM end training after the current step, with a checkpoint."""

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
    Callback that saves a checkpoint and ends training after a step during which any process received SIGINT or
    SIGTERM. A second SIGINT, more than a second later, raises `KeyboardInterrupt` at once. The callback is also a
    context manager, and handles signals only inside the context, in the main thread.

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
                logger.warning(
                    "Stopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, "
                    "without a checkpoint."
                )
        # A launcher repeats a Ctrl-C that the terminal has sent to all processes: a signal within a second is the same
        # Ctrl-C.
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs) -> None:
        received = self._received
        if PartialState().num_processes > 1:
            # All processes save together, even if only one received the signal.
            received = int(gather(torch.tensor([received], device=PartialState().device)).max())
        if received:
            self.signal = received
            control.should_save = control.should_training_stop = True
            # An evaluation would take time, and with `save_strategy=best` it would decide whether to save.
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if self.signal is not None:  # saved already
            control.should_save = control.should_evaluate = False
