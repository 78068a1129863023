"""Models that only provide perturbations: those given on the command line, and surrogates of the agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.attacks.settings import RobustnessSettings
from ..common.errors import RunError, UserError, user_errors
from ..common.measuring import load_agents

if TYPE_CHECKING:
    from ...evaluation.agents import Agent

# Number of rows for the training of a surrogate.
EXAMPLES = 2000
_FOLDER = "surrogates"


def load_sources(paths: list[str], models: dict[str, str], **placement: Any) -> list[Agent]:
    """
    Load the models of `--transfer_from`. Their paths serve as names.

    Args:
        paths: The paths of these models.
        models: The paths of the agents, by name.
        placement: Arguments of `load_agent`.

    Raises:
        UserError: if a model cannot be loaded, is one of the agents, or has the name of an agent.
    """
    evaluated = {_place(model) for model in models.values()}
    for path in paths:
        if _place(path) in evaluated:
            raise UserError(
                f"`--transfer_from`: {path} is one of the agents, which are always tried on each other: leave it out."
            )
        if path in models:
            raise UserError(
                f"`--transfer_from`: an agent is also named {path}: give the agent another name, as in NAME=MODEL."
            )
    try:
        return load_agents({path: path for path in paths}, **placement)
    except UserError as error:
        raise UserError(f"`--transfer_from`: {error}") from error


def check_transfers(agents: list[Agent], sources: list[Agent], rows: list[dict[str, Any]]) -> None:
    """
    Check that the perturbations of each source fit at least one agent, and print which agents do not fit each other.

    Raises:
        UserError: if a source fits no agent; names the source and the reason.
    """
    from rich.console import Console

    from ...evaluation.agents import why_not

    for source in sources:
        reasons = [why_not(source, agent, rows) for agent in agents]
        if all(reasons):
            raise UserError(f"`--transfer_from`: no perturbation transfers from {source.name}: {reasons[0]}.")
    console = Console(stderr=True)
    for i, one in enumerate(agents):
        for other in agents[i + 1 :]:
            if reason := why_not(one, other, rows):
                console.print(
                    f"note: {one.name} and {other.name} are not attacked with each other's perturbations. "
                    f"For {one.name}: {reason}.",
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )


def check_surrogates(models: dict[str, str], sources: list[str], output: Path) -> None:
    """
    Check that the folder of each surrogate, `surrogates/NAME` in the output folder, is valid and does not contain a
    model that is used here.

    Raises:
        UserError: if not; names the option and the remedy.
    """
    used = {_place(path) for path in (*models.values(), *sources)}
    for name in models:
        if name in ("", ".", "..") or Path(name).name != name:
            raise UserError(
                f"`--surrogate`: {name!r} is not a valid folder name: give another name, as in NAME=MODEL."
            )
        folder = output / _FOLDER / name
        if any(place.is_relative_to(_place(folder)) for place in used):
            raise UserError(
                f"`--surrogate` would replace {folder}, which is a model that is used here: give another `--output`."
            )


def make_surrogates(
    agents: list[Agent], rows: list[dict[str, Any]], settings: RobustnessSettings, output: Path
) -> list[Agent]:
    """
    Train a surrogate of each agent on these rows, and save it in `surrogates/NAME` in the output folder.

    Raises:
        UserError: if an agent cannot be trained.
        RunError: if training diverges.
    """
    from rich.console import Console

    from ...evaluation.agents import Agent
    from ...evaluation.attacks.surrogate import make_surrogate

    console, made = Console(stderr=True), []
    for agent in agents:
        folder = output / _FOLDER / agent.name
        console.print(f"Making a surrogate of {agent.name} in {folder}", soft_wrap=True, markup=False, highlight=False)
        try:
            with user_errors():
                parts = make_surrogate(agent.model, agent.tokenizer, rows, settings.threat, folder)
        except FloatingPointError as error:
            raise RunError(
                f"`--surrogate`: the training of the surrogate of {agent.name} diverges: leave `--surrogate` out."
            ) from error
        made.append(Agent(f"surrogate of {agent.name}", str(folder), *parts))
    return made


def _place(path: str | Path) -> Path:
    return Path(path).resolve()
