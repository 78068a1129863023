"""Measure agents, with one progress bar for each."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import Interrupted, UserError, user_errors
from .processes import is_first

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...evaluation.unfinished import Unfinished
    from ...training.sharing.results import ToolCallNumbers

_Numbers = TypeVar("_Numbers")


def load_agents(models: dict[str, str], **placement: Any) -> list[Agent]:
    """
    Load all agents, given their folders or Hub names by name. They are loaded before any is measured, so that a wrong
    name is found at once.

    Args:
        placement: Arguments of [`load_agent`].

    Raises:
        UserError: if a model cannot be loaded.
    """
    from ...evaluation.agents import Agent, load_agent

    with user_errors():
        return [Agent(name, path, *load_agent(path, **placement)) for name, path in models.items()]


def measure_each(
    agents: list[Agent],
    steps: int,
    measure: Callable[[Agent, Callable[[], None]], ToolCallNumbers],
    done: dict[str, int] | None = None,
) -> dict[str, ToolCallNumbers]:
    """
    Measure the agents one after the other. Return their numbers and training times by name.

    Args:
        measure: Function of an agent and of a progress function, which it calls `steps` times, less `done`. It returns
            numbers.
        done: How many of the steps an interrupted evaluation has done, by the agent's name.

    Raises:
        UserError: if an agent cannot be attacked, or the results of its training cannot be read.
    """
    return measure_together(
        agents,
        steps,
        lambda on_progress: {
            agent.name: measure(agent, functools.partial(on_progress, agent.name)) for agent in agents
        },
        done,
    )


def measure_together(
    agents: list[Agent],
    steps: int,
    measure: Callable[[Callable[[str], None]], dict[str, _Numbers]],
    done: dict[str, int] | None = None,
) -> dict[str, _Numbers]:
    """
    Measure all agents together. Return their numbers and training times by name.

    Args:
        measure: Function of a progress function, which it calls `steps` times with each name, less `done`. It returns
            numbers by name.
        done: As for [`measure_each`].

    Raises:
        UserError: for the same reasons as [`measure_each`].
    """
    from .progress import bars

    seconds, done = check_train_seconds(agents), done or {}
    with bars() as progress, user_errors():
        tasks = {
            name: progress.add_task(f"Attacking {name}", total=steps, completed=done.get(name, 0)) for name in seconds
        }
        runs = measure(lambda name: progress.advance(tasks[name]))
    return {name: runs[name] | {"train_seconds": seconds[name]} for name in seconds}


@contextlib.contextmanager
def going_on(unfinished: Unfinished, done: int) -> Iterator[None]:
    """
    Say what an interrupted evaluation has left, and, if this one is interrupted, too, that the same command goes on after it.

    Args:
        done: How many reports of progress it had made.

    Raises:
        Interrupted: on Ctrl-C.
    """
    if done and is_first():
        print(f"Going on with the interrupted evaluation in {unfinished.folder}.", file=sys.stderr)
    try:
        yield
    except KeyboardInterrupt as error:
        if unfinished.folder is None or not unfinished.folder.exists():
            raise Interrupted("no batch was finished.") from error
        raise Interrupted(
            f"finished batches are in {unfinished.folder}: the same command goes on after them."
        ) from error


def weights_of(agents: list[Agent]) -> dict[str, dict[str, str | None]]:
    """Return folders and weight digests of the agents, for the results. Model cards find their numbers by digest."""
    from ...training.sharing.model_card import weights_digest

    return {
        "models": {agent.name: agent.folder for agent in agents},
        "weights": {agent.name: weights_digest(Path(agent.folder)) for agent in agents},
    }


def check_train_seconds(agents: list[Agent]) -> dict[str, float | None]:
    """
    Return the training time of each agent in seconds, or None if unknown. Call this first, so that errors appear at
    once.

    Raises:
        UserError: if the results of the training cannot be read.
    """
    return {agent.name: _train_seconds(agent.folder) for agent in agents}


def _train_seconds(path: str) -> float | None:
    file = Path(path) / "train_results.json"
    if not file.is_file():
        return None
    try:
        seconds = json.loads(file.read_text(encoding="utf-8")).get("train_runtime")
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(f"`train_runtime` is {seconds}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} does not contain valid training results ({error}): remove it, or give another run."
        ) from error
    return seconds
