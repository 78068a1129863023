"""
`python -m MODULE` in processes that have imported torch, Transformers and TRL already: the imports take eight seconds, and
what a test runs in such a process mostly one or two.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from . import ROOT


def context() -> BaseContext:
    """Start the server unless it runs."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["tests.support.heavy"])
    # DeepSpeed looks for a device when it is imported.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("DS_ACCELERATOR", "cpu")
        forkserver.ensure_running()
    return forking


class Forked:
    """
    `python -m module *argv`, forked from a server that imports once for all tests of a process.

    Attributes:
        out, err: The files of its standard output and error.
    """

    def __init__(self, folder: Path, module: str, *argv: object, ignoring: int | None = None, **environment: str):
        """`ignoring`: a signal, as a shell's background jobs ignore Ctrl-C."""
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
        files = str(self.out), str(self.err)
        arguments = module, [str(item) for item in argv], environment, files, ignoring
        self._process = context().Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 240) -> int:
        """Return the exit status, as `subprocess.Popen.wait` does."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.err.read_text()}")
        return self._process.exitcode


def run_together(folder: Path, module: str, *argv: object, count: int = 2, **environment: str) -> None:
    """Run `count` processes of one group, with the variables that `torchrun` sets; all must end with status 0."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = str(opened.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"} | environment
    places = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
    group = [Forked(folder / f"rank-{place['RANK']}", module, *argv, **shared | place) for place in places]
    deadline = time.monotonic() + 600
    try:
        # One that failed leaves the others waiting for it.
        while any(one._process.exitcode is None for one in group) and time.monotonic() < deadline:
            assert not any(one._process.exitcode for one in group), _errors(group)
            time.sleep(0.05)
        assert [one._process.exitcode for one in group] == [0] * count, _errors(group)
    finally:
        for one in group:
            one._process.kill()


def _errors(group: list[Forked]) -> str:
    return "\n".join(f"{one.err}:\n{one.err.read_text()[-4000:]}" for one in group if one.err.exists())


def _run(module: str, argv: list[str], environment: dict[str, str], files: tuple, ignoring: int | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if ignoring is not None:
        signal.signal(ignoring, signal.SIG_IGN)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
