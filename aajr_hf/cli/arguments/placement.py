"""Options of how models are loaded for a measurement: the type of their numbers, and the devices that hold them."""

from __future__ import annotations

from typing import Any

from ..common.errors import UserError
from .options import ArgumentParser

_DEFAULT = "float32"


def add_placement(parser: ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("large models")
    group.add_argument(
        "--dtype",
        choices=(_DEFAULT, "bfloat16", "float16"),
        default=_DEFAULT,
        help="type of the weights, and of the gradients that attacks follow (default: %(default)s)",
    )
    group.add_argument(
        "--device_map",
        choices=("auto", "balanced", "sequential"),
        help="spread each model over the GPUs of this machine, as Accelerate does, if it fits no single one (default: one device)",
    )


def placement_of(arguments) -> dict[str, Any]:
    """Return the arguments of [`load_agent`] for the options."""
    return {"dtype": arguments.dtype, "device_map": arguments.device_map}


def check_placement(arguments) -> None:
    """
    Check that the options fit the others.

    Raises:
        UserError: if not; names the options.
    """
    if arguments.device_map is not None and (arguments.num_processes or arguments.accelerate_config):
        raise UserError(
            "`--device_map` spreads a model over all GPUs, so that none is left for further processes: leave out "
            "`--num_processes` and `--accelerate_config`."
        )


def recorded_placement(arguments) -> dict[str, str]:
    """Return what results record: the type of the weights, if it is not the default."""
    return {} if arguments.dtype == _DEFAULT else {"dtype": arguments.dtype}
