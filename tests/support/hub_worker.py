"""
Runs commands one after another in one process whose Hub is `HF_ENDPOINT`: each line of its input is a JSON list of a
command's arguments, or a JSON string of Python; each line of its output what came of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import traceback

from matplotlib.figure import Figure

from aajr_hf.cli.main import main

from .no_drawing import save_a_pixel

Figure.savefig = save_a_pixel


def carry_out(command: list[str] | str) -> dict:
    slept: list[float] = []
    real_sleep = time.sleep

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        real_sleep(min(seconds, 0.01))

    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    loggers = [logging.getLogger(name) for name in ("aajr_hf", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(handler)
    time.sleep = sleep
    result = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if isinstance(command, str):
                    scope: dict = {}
                    exec(command, scope)
                    status, result = 0, scope.get("result")
                else:
                    status = main(command)
            except Exception:
                status = -1
                traceback.print_exc()
    finally:
        time.sleep = real_sleep
        for logger in loggers:
            logger.removeHandler(handler)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "slept": slept, "result": result}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print to the descriptor is no answer
    for line in sys.stdin:
        answers.write(json.dumps(carry_out(json.loads(line))) + "\n")
        answers.flush()
