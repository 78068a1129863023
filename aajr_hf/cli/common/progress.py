"""Progress of commands: bars in a terminal, plain lines in a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from .heartbeat import HEARTBEAT, clock
from .processes import is_first

# Maps a logged metric to its name on the screen and its number format.
_SHOWN = {
    "loss": ("loss", ".4g"),
    "eval_loss": ("eval loss", ".4g"),
    "aajr/clean_loss": ("clean", ".3g"),
    "aajr/adversarial_loss": ("adversarial", ".3g"),
    "aajr/penalty": ("penalty", ".3g"),
    "aajr/amplification": ("amplification", ".3g"),
    "aajr/lambda": ("lambda", ".2g"),
    "aajr/skipped_steps": ("skipped steps", ".0f"),
    "grad_norm": ("gradient", ".3g"),
    "learning_rate": ("learning rate", ".2g"),
}


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Yield a progress display: one bar per task in a terminal, and a line from time to time elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not (console.is_terminal and is_first())
    )

    def describe() -> str:
        return ", ".join(
            f"{t.description} {round(t.completed, 1):g}/{t.total:.0f}" for t in progress.tasks if not t.finished
        )

    with progress, HEARTBEAT.during(None if console.is_terminal else describe):
        yield progress


class TrainingProgress(TrainerCallback):
    """
    Callback that replaces Transformers' progress bar and printed dictionaries. All metrics are in trainer_state.json
    and in the trackers. As a context manager, it restores the terminal however training ends.

        with TrainingProgress(trainer):
            trainer.train()
    """

    def __init__(self, trainer: Trainer, console: Console | None = None):
        self.console = Console() if console is None else console
        self._bar, self._left = None, contextlib.ExitStack()
        if self.console.is_terminal and not trainer.args.disable_tqdm:
            columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(TextColumn("Training"), BarColumn(), *columns, console=self.console)
        for shown in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(shown)
        trainer.add_callback(self)

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_) -> None:
        self._left.close()
        if self._bar is not None:
            self._bar.stop()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._began, self._first = time.monotonic(), state.global_step
        if self._bar is not None and state.is_world_process_zero:
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()
        self._state = state
        self._left.enter_context(HEARTBEAT.during(None if self._bar is not None else self._step_under_way))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self._bar is not None and state.is_world_process_zero:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "train_runtime" in logs:  # skip the summary at the end
            return
        shown = [f"{name} {logs[key]:{form}}" for key, (name, form) in _SHOWN.items() if key in logs]
        if state.is_world_process_zero and shown:
            # Print one line per log, even in a narrow terminal.
            self.console.print(" | ".join([self._where(state), *shown]), highlight=False, soft_wrap=True)
            HEARTBEAT.shown()

    def _step_under_way(self) -> str:
        # The first step of a large model may take minutes.
        done, steps = self._state.global_step, self._state.max_steps
        return f"step {done + 1}/{steps} is running" if done < steps else f"all {steps} steps are done, saving"

    def _where(self, state) -> str:
        step = f"step {state.global_step}/{state.max_steps}"
        done, passed = state.global_step - self._first, time.monotonic() - self._began
        if self._bar is not None or not done:
            return step
        return f"{step} | {clock(passed)} passed, {clock(passed / done * (state.max_steps - state.global_step))} left"
