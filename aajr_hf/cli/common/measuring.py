"""Agents measured one after the other, with a progress bar each."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .errors import UserError, user_errors

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...training.sharing.results import ToolCallNumbers

_Numbers = TypeVar("_Numbers")


def load_agents(models: dict[str, str]) -> list[Agent]:
    """
    Agents from folders or Hub names by name: all of them before any is measured, so that a wrong name is found before the
    first minutes are spent.

    Raises:
        UserError: for a model that cannot be loaded.
    """
    from ...evaluation.agents import Agent, load_agent

    with user_errors():
        return [Agent(name, path, *load_agent(path)) for name, path in models.items()]


def measure_each(
    agents: list[Agent], steps: int, measure: Callable[[Agent, Callable[[], None]], ToolCallNumbers]
) -> dict[str, ToolCallNumbers]:
    """
    The numbers of each agent by its name, one after the other, and how long it was trained.

    Args:
        measure: From an agent and a function that it calls `steps` times, to numbers.

    Raises:
        UserError: for an agent that cannot be attacked, and for what its training left that cannot be read.
    """
    return measure_together(
        agents,
        steps,
        lambda on_progress: {
            agent.name: measure(agent, functools.partial(on_progress, agent.name)) for agent in agents
        },
    )


def measure_together(
    agents: list[Agent], steps: int, measure: Callable[[Callable[[str], None]], dict[str, _Numbers]]
) -> dict[str, _Numbers]:
    """
    The numbers of all agents by name, and how long each was trained.

    Args:
        measure: From a function that it calls with each name `steps` times, to numbers by name.

    Raises:
        UserError: as [`measure_each`].
    """
    from .progress import bars

    seconds = check_train_seconds(agents)
    with bars() as progress, user_errors():
        tasks = {name: progress.add_task(f"Attacking {name}", total=steps) for name in seconds}
        runs = measure(lambda name: progress.advance(tasks[name]))
    return {name: runs[name] | {"train_seconds": seconds[name]} for name in seconds}


def weights_of(agents: list[Agent]) -> dict[str, dict[str, str | None]]:
    """What an evaluation records of its models; by the digests, a model card finds its numbers."""
    from ...training.sharing.model_card import weights_digest

    return {
        "models": {agent.name: agent.folder for agent in agents},
        "weights": {agent.name: weights_digest(Path(agent.folder)) for agent in agents},
    }


def check_train_seconds(agents: list[Agent]) -> dict[str, float | None]:
    """
    How long each agent was trained, as far as that is known: before minutes are spent.

    Raises:
        UserError: for what its training left that cannot be read.
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
        raise UserError(f"{file} holds no results of a training ({error}): remove it, or give another run.") from error
    return seconds
