"""Run Accelerate's launcher in this process, and report how the launched processes ended: one line, one exit status."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

from ..._errors import one_line
from ..common.errors import UserError


def run_launcher(parsed) -> int:
    """Run `accelerate launch` with its parsed arguments; return the exit status of the process that failed first, or 0."""
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for module in ("agent.server.api", "multiprocessing.api"):
        # These loggers print a dozen lines for each failure. `_first_failure` prints one.
        logging.getLogger(f"torch.distributed.elastic.{module}").setLevel(logging.CRITICAL)
    # Accelerate's launcher of a single process needs these handlers; its launcher of several has its own. Ctrl-C needs
    # one, too, because background jobs of a shell inherit that it is ignored.
    handlers = {signal.SIGTERM: _raise_terminated, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        return _first_failure(error.failures)
    except subprocess.CalledProcessError as error:  # the single process has printed the reason
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except SignalException as error:
        # The launcher has sent the same signal to the processes, and the first one prints how to resume.
        return 128 + error.sigval
    except KeyboardInterrupt:
        return _end_children(signal.SIGINT)
    except _Terminated:
        return _end_children(signal.SIGTERM)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(one_line(error)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


class _Terminated(BaseException):
    """The process received SIGTERM."""


def _raise_terminated(number, frame):
    raise _Terminated


def _first_failure(failures: dict) -> int:
    """Print why the first process failed, and return its status. Ignore processes that were ended because of it."""
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].timestamp))
    status = failure.exitcode
    if Path(failure.error_file).is_file():
        print(f"error: {failure.message}", file=sys.stderr)
    elif status < 0:
        print(f"error: process {rank} was ended by {signal.Signals(-status).name}.", file=sys.stderr)
    elif status != 130:
        print(f"error: process {rank} ended with status {status}; see its output above.", file=sys.stderr)
    return status if status > 0 else 128 - status


def _end_children(number: int) -> int:
    """Pass a signal on, wait until the processes have saved their state, and return the exit status."""
    import psutil

    children = psutil.Process().children()
    for child in children:
        # Send it at once: Ctrl-C in a terminal reaches the children, too, and a later second signal would stop the
        # saving.
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)
    psutil.wait_procs(children)
    return 128 + number
