"""Runs Accelerate's launcher in this process, and says in one line and one exit status how the launched ones ended."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

from .errors import UserError

_GRACE_SECONDS = 5


def run_launcher(parsed) -> int:
    """Run `accelerate launch` with its parsed arguments; return the exit status of the process that failed first, or 0."""
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for module in ("agent.server.api", "multiprocessing.api"):
        # A dozen lines for each failure; `_first_failure` says it in one.
        logging.getLogger(f"torch.distributed.elastic.{module}").setLevel(logging.CRITICAL)
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        return _first_failure(error.failures)
    except subprocess.CalledProcessError as error:  # a single process: it has said why
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except SignalException as error:
        # The processes have been ended with the same signal, and the first one says how to resume.
        return 128 + error.sigval
    except KeyboardInterrupt:
        return _end_children()
    except (ValueError, ImportError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
    return 0


def _first_failure(failures: dict) -> int:
    """Print why the first process failed; return its status. Those that were ended in consequence do not count."""
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].timestamp))
    status = failure.exitcode
    if Path(failure.error_file).is_file():
        print(f"error: {failure.message}", file=sys.stderr)
    elif status < 0:
        print(f"error: process {rank} was ended by {signal.Signals(-status).name}.", file=sys.stderr)
    elif status != 130:
        print(f"error: process {rank} ended with status {status}; what it printed stands above.", file=sys.stderr)
    return status if status > 0 else 128 - status


def _end_children() -> int:
    """Accelerate's launcher of a single process does not wait for it to save what it must."""
    import psutil

    # A terminal's Ctrl-C has reached them, too: a second signal would cut off what they save and say.
    _, alive = psutil.wait_procs(psutil.Process().children(), timeout=_GRACE_SECONDS)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGINT)
    psutil.wait_procs(alive)
    return 130
