"""Models that are there for the perturbations that are found on them: of the command line, and surrogates made of the agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.attacks.settings import RobustnessSettings
from ..common.errors import RunError, UserError, user_errors
from ..common.measuring import load_agents

if TYPE_CHECKING:
    from ...evaluation.agents import Agent

# Rows that a surrogate is trained on.
EXAMPLES = 2000
_FOLDER = "surrogates"


def load_sources(paths: list[str], models: dict[str, str]) -> list[Agent]:
    """
    The models of `--transfer_from`, under their paths.

    Args:
        models: The paths of the agents, by name.

    Raises:
        UserError: for a model that cannot be loaded, or is one of the agents or named as one of them.
    """
    evaluated = {_place(model) for model in models.values()}
    for path in paths:
        if _place(path) in evaluated:
            raise UserError(
                f"`--transfer_from`: {path} is evaluated already, and so tried on the others: leave it out."
            )
        if path in models:
            raise UserError(f"`--transfer_from`: an agent is named {path}, too: give it a name, as in NAME=MODEL.")
    try:
        return load_agents({path: path for path in paths})
    except UserError as error:
        raise UserError(f"`--transfer_from`: {error}") from error


def check_transfers(agents: list[Agent], sources: list[Agent], rows: list[dict[str, Any]]) -> None:
    """
    Refuse a source whose perturbations fit none of the agents, and say which agents' do not fit each other.

    Raises:
        UserError: names the model, and says why.
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
                    f"note: {one.name} and {other.name} are not attacked with each other's perturbations: of {one.name}, {reason}.",
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )


def check_surrogates(models: dict[str, str], sources: list[str], output: Path) -> None:
    """
    Whether each agent's surrogate has a folder, `surrogates/NAME` of the output folder, that is none of the models'.

    Raises:
        UserError: names the option, and the remedy.
    """
    used = {_place(path) for path in (*models.values(), *sources)}
    for name in models:
        if name in ("", ".", "..") or Path(name).name != name:
            raise UserError(f"`--surrogate`: {name!r} cannot be a folder's name: give another one, as in NAME=MODEL.")
        folder = output / _FOLDER / name
        if any(place.is_relative_to(_place(folder)) for place in used):
            raise UserError(f"`--surrogate` would replace {folder}, which is used here: give another `--output`.")


def make_surrogates(
    agents: list[Agent], rows: list[dict[str, Any]], settings: RobustnessSettings, output: Path
) -> list[Agent]:
    """
    A surrogate of each agent, trained on these rows and kept in `surrogates/NAME` of the output folder.

    Raises:
        UserError: for an agent that cannot be trained.
        RunError: where its training diverges.
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
                f"The surrogate of {agent.name} diverges while it is trained: leave `--surrogate` out."
            ) from error
        made.append(Agent(f"surrogate of {agent.name}", str(folder), *parts))
    return made


def _place(path: str | Path) -> Path:
    return Path(path).resolve()
