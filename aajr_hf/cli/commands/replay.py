"""`aajr replay`: repeat a training step in which a number was not finite."""

from __future__ import annotations

from pathlib import Path

from ..arguments.options import ArgumentParser
from ..common.errors import UserError, user_errors

DESCRIPTION = """Run a step again in which a loss, a penalty or a gradient was not finite, with the weights, the data and the
random numbers that it had, on one process; print where the numbers stop being finite.

    aajr replay outputs/congestion-aajr/_nonfinite-120
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("replay", description=DESCRIPTION)
    parser.add_argument("dump", metavar="DUMP", type=Path, help="folder _nonfinite-STEP of a run")
    arguments = parser.parse_args(argv)
    if not (arguments.dump / "dump.json").is_file():
        raise UserError(f"There is no dump in {arguments.dump}: give a folder _nonfinite-STEP of a run.")

    from ...training.trainers.replay import replay

    with user_errors():
        found = replay(arguments.dump)
    print(f"In training: {found.recorded}.")
    print(f"In the replay, with the data of process {found.process} (of {found.processes}):")
    for i, loss in enumerate(found.loss):
        print(f"  loss of micro-batch {i}: {loss:.6g}")
    for name, value in found.statistics.items():
        print(f"  {name}: {value:.6g}")
    if not found.reproduced:
        print(
            "All numbers are finite in the replay: a different device, precision or library version may be the reason."
        )
        return 0
    if found.modules:
        print(f"First modules with finite inputs but a non-finite output: {', '.join(found.modules[:5])}")
    print(f"Parameters with a non-finite gradient: {len(found.parameters)} of {found.trained}", end="")
    print(f", {', '.join(found.parameters[:5])}" if found.parameters else "")
    return 0
