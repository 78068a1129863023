"""Models that are there for the perturbations that are found on them: of the command line, and surrogates made of the agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation.settings import RobustnessSettings
from .errors import UserError, user_errors
from .measuring import load_agents

Agents = dict[str, tuple[Any, Any]]


def load_sources(paths: list[str], agents: Agents) -> Agents:
    """
    The models of `--transfer_from`, under their paths.

    Raises:
        UserError: for a model that cannot be loaded, or is named as an agent is.
    """
    for path in paths:
        if path in agents:
            raise UserError(
                f"`--transfer_from`: {path} is evaluated already, and so tried on the others: leave it out."
            )
    return load_agents({path: path for path in paths})


def check_transfers(agents: Agents, sources: Agents, rows: list[dict[str, Any]]) -> None:
    """
    Refuse a source whose perturbations fit none of the agents, and say which agents' do not fit each other.

    Raises:
        UserError: names the model, and says why.
    """
    from rich.console import Console

    from ..evaluation.attacks.from_others import why_not

    for name, source in sources.items():
        reasons = [why_not(source, agent, rows) for agent in agents.values()]
        if all(reasons):
            raise UserError(f"`--transfer_from`: no perturbation transfers from {name}: {reasons[0]}.")
    console = Console(stderr=True)
    names = list(agents)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if reason := why_not(agents[one], agents[other], rows):
                console.print(
                    f"note: {one} and {other} are not attacked with each other's perturbations: {reason}.",
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )


def make_surrogates(
    agents: Agents, models: dict[str, str], world: str, settings: RobustnessSettings, output: Path
) -> Agents:
    """A surrogate of each agent, kept in `surrogates/NAME` of the output folder, with what it needs to be loaded."""
    from rich.console import Console

    from ..environments import expert_rows
    from ..evaluation.surrogate import EXAMPLES, make_surrogate

    console, made = Console(stderr=True), {}
    rows = expert_rows(world, EXAMPLES, seed=settings.seed)
    for name, agent in agents.items():
        folder = output / "surrogates" / name
        console.print(f"Making a surrogate of {name} in {folder}", soft_wrap=True, markup=False, highlight=False)
        with user_errors():
            made[f"surrogate of {name}"] = make_surrogate(agent, rows, settings.threat, folder)
    return made
