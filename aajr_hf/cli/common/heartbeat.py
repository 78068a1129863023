"""Signs of life on standard error while a command prints nothing else."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator


class Heartbeat:
    """
    Prints what a command is doing whenever nothing else was printed for `every` seconds, so that users see that slow
    work (a first step, loading a model, training a surrogate) goes on.
    """

    def __init__(self, every: float = 20.0):
        self.every = every
        # What is being done, and since when.
        self._doing: list[tuple[Callable[[], str] | None, float]] = []
        self._last = 0.0

    @contextlib.contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Print signs of life inside the context."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over,), daemon=True)
        with self.during(lambda: command):
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()

    @contextlib.contextmanager
    def during(self, describe: Callable[[], str] | None) -> Iterator[None]:
        """
        Print this text inside the context, with the time since it was entered; None for work that shows its own progress, such
        as a progress bar.
        """
        self._doing.append((describe, time.monotonic()))
        self.shown()
        try:
            yield
        finally:
            self._doing.pop()
            self.shown()

    def shown(self) -> None:
        """Note that something else has been printed."""
        self._last = time.monotonic()

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(max(self._last + self.every - time.monotonic(), 0.1)):
            (describe, began), now = self._doing[-1], time.monotonic()
            if now - self._last < self.every:
                continue
            if describe is not None:
                _print(f"{describe()} | {clock(now - began)} passed")
            self.shown()


HEARTBEAT = Heartbeat()


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _print(line: str) -> None:
    # tqdm.write keeps the line from breaking a progress bar of another library.
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
