"""`aajr screen`: attack an agent with forward passes alone, by gradients that a regression predicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments import expert_rows, held_out_rows
from ...training.data.system_prompts import check_system_role, with_system_prompt
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.threat import add_threat, threat_of
from ..arguments.validators import check_at_least_one, check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import UserError, user_errors

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...evaluation.attacks.predicted import GradientPredictor
    from ...evaluation.attacks.target import Target

# Rows that a predictor is fitted to.
_FITTED = 256
DESCRIPTION = """Attack an agent with gradients that are predicted from its forward passes, and compare that with random points, with one
step along the true gradient and with an ascent (PGA): the success that each leaves, and its seconds. The predictor is fitted
to the gradients of one model, and can be used on others like it of which only outputs and last hidden states are known.

    aajr screen outputs/agent --save outputs/gradients.safetensors      # needs gradients
    aajr screen outputs/served --load outputs/gradients.safetensors     # needs none
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("screen", description=DESCRIPTION)
    parser.add_argument("model", help="folder of a model or an adapter, or name on the Hub")
    file = parser.add_mutually_exclusive_group()
    file.add_argument(
        "--save", type=Path, metavar="FILE", help="save the fitted predictor in this file (.safetensors)"
    )
    file.add_argument(
        "--load",
        type=Path,
        metavar="FILE",
        help="use this predictor, and compute no gradients; without it, a predictor is fitted to the model",
    )
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    parser.add_argument(
        "--examples", type=int, default=256, help="number of held-out observations (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="examples in a forward pass (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of observations and attacks (default: %(default)s)")
    add_threat(parser)
    arguments = parser.parse_args(argv)
    _check(arguments)
    screen_agent(arguments)
    return 0


def _check(arguments) -> None:
    check_at_least_one(arguments, "examples", "batch_size")
    check_seed(arguments.seed, "--seed")
    if arguments.epsilon == 0:
        raise UserError("`--epsilon` must be above 0, because it is the radius of the attacks; got 0.")
    if arguments.load is not None and not arguments.load.is_file():
        raise UserError(
            f"`--load`: there is no file {arguments.load}: write one with `aajr screen MODEL --save FILE`."
        )
    if arguments.save is not None:
        if arguments.save.is_dir():
            raise UserError(f"`--save`: {arguments.save} is a folder: give the name of a file.")
        check_output(arguments.save.parent, "--save")


def screen_agent(arguments) -> None:
    """
    Fit or load the predictor, run the attacks, and print the table. The predictor is saved at the end.

    Raises:
        UserError: if the model or the predictor cannot be used; nothing is written then.
    """
    from rich.console import Console

    from ...evaluation.reporting.screening import agreement_sentences, screening_table
    from ...evaluation.robustness.screening import agreement_on, screen
    from ..common.measuring import load_agents

    threat = threat_of(arguments, [arguments.model])
    world = world_for([arguments.model], arguments.environment)
    prompt = system_prompt_for([arguments.model], arguments.system_prompt)
    (agent,) = load_agents({"": arguments.model})
    with user_errors():
        check_system_role(agent.tokenizer, prompt)
        known = with_system_prompt(expert_rows(world, _FITTED, seed=arguments.seed), prompt)
        rows = with_system_prompt(held_out_rows(world, arguments.examples, seed=arguments.seed), prompt)
        targets = list(_targets(agent, rows, threat, arguments.batch_size))
    fitted = arguments.load is None
    predictor = _predictor(agent, known, threat, targets[0], arguments)
    agreed = agreement_on(predictor, targets) if fitted else None
    found = screen(targets, predictor, gradients=fitted, seed=arguments.seed)
    if arguments.save is not None:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        with user_errors():
            predictor.save(arguments.save)
    printed = Console(markup=False)
    printed.print(screening_table(found, threat.epsilon))
    for sentence in agreement_sentences(agreed):
        printed.print(sentence, soft_wrap=True)
    if arguments.save is not None:
        printed.print(f"Predictor: {arguments.save}", soft_wrap=True)


def _predictor(agent: Agent, known: list[dict[str, Any]], threat, target: Target, arguments) -> GradientPredictor:
    """Return the predictor of the file, or one that is fitted to the known rows."""
    from ...evaluation.attacks.predicted import GradientPredictor
    from ...evaluation.robustness.screening import fit_predictor

    if arguments.load is None:
        return fit_predictor(_targets(agent, known, threat, arguments.batch_size))
    try:
        with user_errors():
            predictor = GradientPredictor.load(arguments.load).to(agent.model.device)
            predictor.check_fits(target)
    except UserError as error:
        raise UserError(f"`--load`: {error}") from error
    return predictor


def _targets(agent: Agent, rows: list[dict[str, Any]], threat, batch_size: int) -> Iterator[Target]:
    from ...evaluation.attacks.target import Target
    from ...evaluation.batches import batches_by_length, read_batch

    for numbers in batches_by_length(agent.tokenizer, rows, batch_size):
        batch = [rows[number] for number in numbers]
        yield Target(
            agent.model, read_batch(agent.tokenizer, batch, threat.perturbed_tokens, agent.model.device), threat
        )
