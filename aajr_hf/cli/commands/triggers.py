"""`aajr triggers`: find words that mislead an agent at the end of any prompt, and keep them in a bank."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments import expert_rows, held_out_rows
from ...training.data.roles import OBSERVED_ROLES
from ...training.data.system_prompts import check_system_role, with_system_prompt
from ...training.data.triggers import Trigger, add_to_bank, read_triggers, with_trigger
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.tool_data import DATA_OPTIONS, add_tool_data, rows_asked_for
from ..arguments.validators import check_at_least_one, check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import UserError, user_errors

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...evaluation.attacks.trigger import TriggerLesson
    from ...evaluation.attacks.trigger_search import Effort, Fluency

ROLES = OBSERVED_ROLES["observation"]
DESCRIPTION = """Find triggers: words that mislead an agent wherever they stand at the end of what a user or a tool says. Gradients choose
the words and a beam tries them, on some rows; how many right answers a trigger leaves is measured on others, beside the best
of random triggers whose search costs as much. The triggers are added to a bank, a JSON file.

    aajr triggers outputs/agent --output outputs/triggers.json
    aajr triggers outputs/tool-agent --dataset_name data/bfcl --dataset_format bfcl --output outputs/triggers.json
    aajr evaluate outputs/agent --triggers outputs/triggers.json                          # try all of them on any agent
    aajr train --config recipes/congestion/triggers/aajr.yaml                             # train against them
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("triggers", description=DESCRIPTION)
    parser.add_argument("model", metavar="[NAME=]MODEL", help="folder of a model or an adapter, or name on the Hub")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/triggers.json"),
        help="bank to add the triggers to; made if there is none (default: %(default)s)",
    )
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    group = parser.add_argument_group("tool calls, in place of a world")
    group.add_argument("--dataset_name", metavar="NAME", help="dataset whose rows ask for tool calls")
    add_tool_data(group, "train")
    group = parser.add_argument_group("search")
    group.add_argument(
        "--lengths", type=int, nargs="+", default=[1, 3], help="words of a trigger, one search each (default: 1 3)"
    )
    group.add_argument(
        "--fluency",
        type=float,
        nargs="+",
        default=[0.0, 0.1],
        metavar="WEIGHT",
        help="weights of the mean log-probability of a trigger's words, one search each; 0: any words (default: 0 0.1)",
    )
    group.add_argument(
        "--fluency_model",
        metavar="MODEL",
        help="language model that judges the fluency; it needs the agent's tokenizer (default: a bigram model of the observations)",
    )
    group.add_argument(
        "--examples", type=int, default=128, help="rows to learn from, and rows to measure on (default: %(default)s)"
    )
    group.add_argument("--candidates", type=int, default=20, help="words tried at each place (default: %(default)s)")
    group.add_argument("--beam", type=int, default=3, help="triggers kept from place to place (default: %(default)s)")
    group.add_argument("--rounds", type=int, default=3, help="passes over all places (default: %(default)s)")
    group.add_argument("--batch_size", type=int, default=64, help="examples in a forward pass (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of rows and searches (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _check(arguments, parser)
    find_triggers(arguments)
    return 0


def _check(arguments, parser: ArgumentParser) -> None:
    check_at_least_one(arguments, "examples", "candidates", "beam", "rounds", "batch_size")
    if min(arguments.lengths) < 1:
        raise UserError(f"`--lengths` must be at least 1; got {min(arguments.lengths)}.")
    if not all(0 <= weight < float("inf") for weight in arguments.fluency):
        raise UserError(f"`--fluency` must be finite numbers of at least 0; got {arguments.fluency}.")
    if arguments.fluency_model and not any(arguments.fluency):
        raise UserError("`--fluency_model` has no effect with `--fluency` 0: raise it, or leave this option out.")
    on_data = arguments.dataset_name is not None
    only = ("environment", "system_prompt") if on_data else DATA_OPTIONS
    for name in only:
        if getattr(arguments, name) != parser.get_default(name):
            option = "env" if name == "environment" else name
            instead = "leave it out" if on_data else "give `--dataset_name`, too"
            raise UserError(f"`--{option}` is only for {'worlds' if on_data else 'tool calls'}: {instead}.")
    check_seed(arguments.seed, "--seed")
    if arguments.output.is_dir():
        raise UserError(f"`--output`: {arguments.output} is a folder: give the name of a file.")
    check_output(arguments.output.parent, "--output")
    if arguments.output.exists():
        try:
            read_triggers(arguments.output)
        except ValueError as error:
            raise UserError(f"`--output`: {error}") from error


def find_triggers(arguments) -> None:
    """
    Find the triggers, measure them, add them to the bank, and print them.

    Raises:
        UserError: if the model, the rows or the bank cannot be used; the bank stays as it is then.
    """
    from rich.console import Console

    from ...evaluation.attacks.trigger import TriggerLesson
    from ...evaluation.attacks.trigger_search import Effort
    from ...evaluation.reporting.triggers import trigger_table
    from ...training.policy.policy import frozen_parameters
    from ..arguments.measurement import by_name
    from ..common.measuring import load_agents

    (agent,) = load_agents(by_name([arguments.model]))
    learnt, tried, data = _rows(arguments, agent)
    effort = Effort(arguments.candidates, arguments.beam, arguments.rounds)
    found, outcomes = [], []
    with user_errors(), frozen_parameters(agent.model):
        nominal = _right(agent, tried, None, arguments.batch_size)
        for length in arguments.lengths:
            lesson = TriggerLesson.of(
                agent.model, agent.tokenizer, learnt, length, roles=ROLES, batch_size=arguments.batch_size
            )
            if lesson is None:
                raise UserError(
                    "A trigger cannot be put into any of the rows: give rows in which a user or a tool speaks, and a model "
                    "whose tokenizer has whole words as tokens."
                )
            fluency = _fluency(arguments, agent, learnt, lesson)
            for weight in arguments.fluency:
                texts = _search(lesson, length, effort, arguments.seed, fluency if weight else None, weight)
                right = [_right(agent, tried, text, arguments.batch_size) for text in texts]
                judge = (arguments.fluency_model or "n-gram") if weight else ""
                shares = [100 * sum(values) / len(tried) for values in (nominal, *right)]
                found.append(Trigger(texts[0], agent.name, data, length, weight, judge, len(tried), *shares))
                outcomes.append(right)
        held = add_to_bank(arguments.output, found)
    printed = Console(markup=False)
    printed.print(trigger_table(found, outcomes))
    printed.print(
        f"{len(found)} triggers added to {arguments.output}, which now holds {held}. Found on {len(learnt)} rows, measured on "
        f"{len(tried)} others.",
        soft_wrap=True,
    )


def _search(
    lesson: TriggerLesson, length: int, effort: Effort, seed: int, fluency: Fluency | None, weight: float
) -> list[str]:
    """Return a trigger, and the best of random ones at the same cost."""
    how = {"fluency": fluency, "weight": weight}
    return [learn(length, effort, seed, **how) for learn in (lesson.find, lesson.random)]


def _fluency(arguments, agent: Agent, rows: list[dict[str, Any]], lesson: TriggerLesson) -> Fluency | None:
    """Return the model that judges how fluent triggers are; None if no search needs one."""
    from ...evaluation.agents import load_agent
    from ...evaluation.attacks.fluency import LanguageModel, NGram, check_same_tokens, observed_tokens

    if not any(arguments.fluency):
        return None
    texts = observed_tokens(agent.tokenizer, rows, ROLES)
    if arguments.fluency_model is None:
        return NGram(texts, lesson.words)
    try:
        with user_errors():
            model, tokenizer = load_agent(arguments.fluency_model)
            check_same_tokens(agent.tokenizer, tokenizer)
    except UserError as error:
        raise UserError(f"`--fluency_model`: {error}") from error
    return LanguageModel(model, texts, lesson.words)


def _rows(arguments, agent: Agent) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Return the rows to learn from, the rows to measure on, and the name of the data."""
    if arguments.dataset_name is None:
        world = world_for([agent.folder], arguments.environment)
        prompt = system_prompt_for([agent.folder], arguments.system_prompt)
        with user_errors():
            check_system_role(agent.tokenizer, prompt)
        # One row of each moment, as the held-out rows are: the rows of one moment are alike.
        learnt = expert_rows(world, 10 * arguments.examples, seed=arguments.seed)[::10]
        tried = held_out_rows(world, arguments.examples, seed=arguments.seed)
        return with_system_prompt(learnt, prompt), with_system_prompt(tried, prompt), world
    from ...evaluation.tool_calls.rows import read_rows

    with user_errors():
        rows = read_rows(rows_asked_for(arguments, arguments.dataset_name, "train"))
    if len(rows) < 2:
        raise UserError("`--dataset_name`: give at least two rows, to learn from and to measure on.")
    random.Random(arguments.seed).shuffle(rows)
    half = min(arguments.examples, len(rows) // 2)
    return rows[:half], rows[half : 2 * half], Path(arguments.dataset_name).name


def _right(agent: Agent, rows: list[dict[str, Any]], text: str | None, batch_size: int) -> list[bool]:
    """Return which answers are right with a trigger: greedy decoding gives the row's own answer, token by token."""
    from ...evaluation.attacks.rewriting import Attacked, Rewritten
    from ...evaluation.robustness.rewritten import judge_answers

    on = Attacked(agent.model, agent.tokenizer, ROLES, batch_size=batch_size)
    if text is not None:
        rows = [row | {"prompt": with_trigger(row["prompt"], text, ROLES) or row["prompt"]} for row in rows]
    found = sorted(judge_answers(on, [Rewritten(row) for row in rows]))
    return [right for _, right, _ in found]
