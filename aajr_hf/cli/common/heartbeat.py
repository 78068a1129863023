"""A sign of life on standard error, wherever a command shows nothing for a while."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator


class Heartbeat:
    """
    Says what a command is doing, every `every` seconds in which nothing else was shown: whatever takes its time, a first step, a
    model that is loaded or a surrogate that is trained, is seen to go on.
    """

    def __init__(self, every: float = 20.0):
        self.every = every
        self._doing: list[Callable[[], str] | None] = []
        self._last = 0.0

    @contextlib.contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Beats inside."""
        over, began = threading.Event(), time.monotonic()
        thread = threading.Thread(target=self._beat, args=(over, began), daemon=True)
        with self.during(lambda: command):
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()

    @contextlib.contextmanager
    def during(self, describe: Callable[[], str] | None) -> Iterator[None]:
        """Inside, the lines say this; None for what shows by itself that it goes on, such as a bar in a terminal."""
        self._doing.append(describe)
        self.shown()
        try:
            yield
        finally:
            self._doing.pop()
            self.shown()

    def shown(self) -> None:
        """Something else has been printed."""
        self._last = time.monotonic()

    def _beat(self, over: threading.Event, began: float) -> None:
        while not over.wait(max(self._last + self.every - time.monotonic(), 0.1)):
            describe, now = self._doing[-1], time.monotonic()
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
    # Not into a bar of another library, which a terminal may show.
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
