"""`aajr push`: upload an agent, and retry until the upload is complete."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import time
from pathlib import Path

from ..arguments.options import ArgumentParser
from ..common.errors import UserError, user_errors

DESCRIPTION = """Upload the folder of an agent, an adapter or a checkpoint to the Hub, with a model card made from it. Repeats
until it is done: what has arrived is not sent again. The token is that of `hf auth login`, or of the variable HF_TOKEN.

    aajr push outputs/congestion-aajr user/congestion-aajr
    aajr push outputs/congestion-aajr user/congestion-aajr --evaluation outputs/evaluation --private
"""
# HTTP status codes for which a retry can help, besides all codes from 500 on and missing answers.
_PASSING = (408, 409, 425, 429)
_HINTS = {401: ": log in with `hf auth login`", 403: ": the token may not write there"}
_LONGEST_WAIT = 60.0


def run(argv: list[str]) -> int:
    parser = ArgumentParser("push", description=DESCRIPTION)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of the agent, as `aajr train` writes it")
    parser.add_argument("repo", metavar="REPO", help="name of the repository, USER/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made")
    parser.add_argument(
        "--evaluation", type=Path, help="folder of `aajr evaluate`: its numbers and plots go into the model card"
    )
    arguments = parser.parse_args(argv)
    _check(arguments.folder)
    with user_errors():
        if arguments.evaluation is not None:
            _add_evaluation(arguments.folder, arguments.evaluation)
        _make_card(arguments.folder, arguments.repo)
    url = push(arguments.folder, arguments.repo, arguments.private or None)
    print(f"Pushed {arguments.folder} to {url}")
    return 0


def _check(folder: Path) -> None:
    from ...training.runs.checkpoints import INCOMPLETE

    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(
            f"There is no model in {folder} (no config.json or adapter_config.json): give the folder of a model."
        )
    if (folder / INCOMPLETE).exists():
        raise UserError(f"The checkpoint in {folder} is incomplete: give a complete one.")


def _add_evaluation(folder: Path, evaluation: Path) -> None:
    """Copy the results and plots of an evaluation of this agent into its folder."""
    from ...training.sharing.model_card import EVALUATION, run_of
    from ...training.sharing.reading import read_results

    file = evaluation / "results.json"
    if not file.is_file():
        raise UserError(
            f"`--evaluation`: there is no results.json in {evaluation}: give a folder written by `aajr evaluate`."
        )
    if run_of(read_results(file), folder) is None:
        raise UserError(f"`--evaluation`: {file} has no results of the agent in {folder}: evaluate the agent.")
    target = folder / EVALUATION
    if target.resolve() != evaluation.resolve():
        target.mkdir(exist_ok=True)
        for source in (file, *evaluation.glob("*.png")):
            shutil.copy(source, target)


def _make_card(folder: Path, repo: str) -> None:
    from ...training.config.recipe import RECIPE
    from ...training.sharing.model_card import is_own_card, write_model_card

    if not (folder / RECIPE).is_file():
        print(f"{folder} has no {RECIPE}: it is uploaded without a new model card.", file=sys.stderr)
    elif not is_own_card(folder):
        print(f"{folder / 'README.md'} was not made by aajr-hf: it is uploaded unchanged.", file=sys.stderr)
    else:
        write_model_card(folder, repo)


def push(folder: Path, repo: str, private: bool | None) -> str:
    """
    Upload the folder, with retries until it is done. Return the URL of the repository.

    Raises:
        UserError: if the Hub rejects the upload for a reason that a retry cannot change.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    from ...training.sharing.hub import NOT_UPLOADED, hub_message, refusal

    api = HfApi(library_name="aajr-hf")
    for attempt in itertools.count():
        try:
            url = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=url.repo_id,
                folder_path=folder,
                commit_message="Push with aajr-hf",
                ignore_patterns=list(NOT_UPLOADED),
            )
            return str(url)
        except HFValidationError as error:
            raise UserError(f"`REPO`: {hub_message(error)}") from error
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            answer = refusal(error)
            status = _status(error, answer)
            if not _passes(error, status):
                who = "" if status is None else "The Hub rejects the upload: "
                raise UserError(f"{who}{hub_message(error)}{_HINTS.get(status, '')}{_xet_hint(error)}") from error
            wait = _wait(attempt, answer)
            print(
                f"The upload is not complete ({hub_message(error)}); retry in {wait:g} s. Press Ctrl-C to stop.",
                file=sys.stderr,
            )
            time.sleep(wait)
    raise AssertionError("unreachable")


def _status(error: Exception, answer) -> int | None:
    """Return the HTTP status of the Hub's answer; None if there was no answer."""
    if answer is not None:
        return answer.response.status_code
    # The client of the Xet storage raises a ConnectionError whose text alone has the status.
    found = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error.__cause__ or error))
    return int(found[1]) if found else None


def _xet_hint(error: Exception) -> str:
    return (
        ": for a Hub without Xet storage, set HF_HUB_DISABLE_XET=1" if "/xet-" in str(error.__cause__ or error) else ""
    )


def _passes(error: Exception, status: int | None) -> bool:
    """Return whether the same upload can succeed later."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if status is not None:
        return status in _PASSING or status >= 500
    # The client wraps errors in the upload of large files.
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    return isinstance(cause, HTTPError | ConnectionError | TimeoutError) and not isinstance(
        cause, OfflineModeIsEnabled
    )


def _wait(attempt: int, answer) -> float:
    """Return the seconds until the next attempt: as the Hub asks, or else doubled after each attempt."""
    asked = None if answer is None else answer.response.headers.get("Retry-After")
    if asked is not None and asked.isdecimal():
        return float(asked)
    return min(2.0 ** min(attempt, 10), _LONGEST_WAIT)
