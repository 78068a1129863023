"""Agents measured one after the other, with a progress bar each."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, user_errors


def load_agents(models: dict[str, str]) -> dict[str, tuple[Any, Any]]:
    """
    Model and tokenizer of each, by name: all of them before any is measured, so that a wrong name is found before the
    first minutes are spent.

    Raises:
        UserError: for a model that cannot be loaded.
    """
    from ...evaluation.agents import load_agent

    with user_errors():
        return {name: load_agent(path) for name, path in models.items()}


def measure_each(
    agents: dict[str, tuple[Any, Any]],
    models: dict[str, str],
    steps: int,
    measure: Callable[[str, Any, Any, Callable[[], None]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """
    The numbers of each agent by its name, one after the other, and how long it was trained.

    Args:
        measure: From a name, its model, its tokenizer and a function that it calls `steps` times, to numbers.

    Raises:
        UserError: for an agent that cannot be attacked, and for what its training left that cannot be read.
    """
    return measure_together(
        models,
        steps,
        lambda on_progress: {
            name: measure(name, *agent, functools.partial(on_progress, name)) for name, agent in agents.items()
        },
    )


def measure_together(
    models: dict[str, str], steps: int, measure: Callable[[Callable[[str], None]], dict[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """
    The numbers of all agents by name, and how long each was trained.

    Args:
        models: Folders or Hub names, by name.
        measure: From a function that it calls with each name `steps` times, to numbers by name.

    Raises:
        UserError: as [`measure_each`].
    """
    from .progress import bars

    seconds = check_train_seconds(models)
    with bars() as progress, user_errors():
        tasks = {name: progress.add_task(f"Attacking {name}", total=steps) for name in models}
        runs = measure(lambda name: progress.advance(tasks[name]))
    return {name: runs[name] | {"train_seconds": seconds[name]} for name in models}


def weights_of(models: dict[str, str]) -> dict[str, Any]:
    """What an evaluation records of its models; by the digests, a model card finds its numbers."""
    from ...training.sharing.model_card import weights_digest

    return {"models": models, "weights": {name: weights_digest(Path(path)) for name, path in models.items()}}


def check_train_seconds(models: dict[str, str]) -> dict[str, float | None]:
    """
    How long each model was trained, as far as that is known: before minutes are spent.

    Raises:
        UserError: for what its training left that cannot be read.
    """
    return {name: _train_seconds(path) for name, path in models.items()}


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
