"""`aajr unlearnable`: mark the training rows that no agent of a list answers under attack."""

from __future__ import annotations

import json
from pathlib import Path

from ...environments import expert_rows
from ...evaluation.attacks.settings import RobustnessSettings
from ...training.data.system_prompts import with_system_prompt
from ..arguments.measurement import by_name
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.threat import add_threat, threat_of
from ..arguments.validators import check_at_least_one, check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import UserError
from ..common.measuring import load_agents, measure_together

DESCRIPTION = """Attack agents on the training rows of their world, and mark the rows that none of them answers rightly within the
training radius. Such rows may be out of reach for any model of this size; a sure teacher makes a student memorise them. Writes
the rows as JSON lines with a column `unlearnable`, which `aajr train --dataset_name FILE` reads.

    aajr unlearnable outputs/congestion-aajr outputs/congestion-adversarial --output outputs/rows.jsonl
"""
_ATTACKS = ("warm_nll", "margin")


def run(argv: list[str]) -> int:
    parser = ArgumentParser("unlearnable", description=DESCRIPTION)
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]MODEL", help="folder of a model or an adapter, or name on the Hub"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/rows.jsonl"), help="file of the rows (default: %(default)s)"
    )
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    parser.add_argument("--examples", type=int, default=1000, help="number of training rows (default: %(default)s)")
    parser.add_argument(
        "--attack_steps", type=int, default=10, help="steps of each gradient attack (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="examples in a forward pass (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of rows and attacks (default: %(default)s)")
    add_threat(parser)
    arguments = parser.parse_args(argv)
    check_at_least_one(arguments, "examples", "attack_steps", "batch_size")
    check_seed(arguments.seed, "--seed")
    if arguments.epsilon == 0:
        raise UserError("`--epsilon` must be above 0, because it is the radius of the attacks; got 0.")
    if arguments.output.is_dir():
        raise UserError(f"`--output`: {arguments.output} is a folder: give the name of a file.")
    check_output(arguments.output.parent, "--output")
    mark(arguments)
    return 0


def mark(arguments) -> None:
    """
    Attack the agents, write the rows, and print how many each agent and no agent answers under attack.

    Raises:
        UserError: if an agent cannot be attacked; nothing is written then.
    """
    from ...evaluation.files import replace_file
    from ...evaluation.robustness.evaluate import evaluate_agents, progress_steps

    models = by_name(arguments.models)
    settings = RobustnessSettings(
        threat=threat_of(arguments, models.values()),
        multiples=(1.0,),
        attacks=_ATTACKS,
        attack_steps=arguments.attack_steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    world = world_for(models.values(), arguments.environment)
    prompt = system_prompt_for(models.values(), arguments.system_prompt)
    rows = with_system_prompt(expert_rows(world, arguments.examples, seed=arguments.seed), prompt)
    agents = load_agents(models)
    runs = measure_together(
        agents,
        progress_steps(settings, len(rows)),
        lambda on_progress: evaluate_agents(agents, rows, settings, on_progress=on_progress),
    )
    left = [run["outcomes"]["worst_case_success"]["1"] for run in runs.values()]
    marked = [not any(values) for values in zip(*left, strict=True)]
    lines = [json.dumps(row | {"unlearnable": mark}) + "\n" for row, mark in zip(rows, marked, strict=True)]
    replace_file(arguments.output, "".join(lines).encode())
    for name, values in zip(runs, left, strict=True):
        print(f"{name}: answers {int(sum(values))} of {len(rows)} rows under attack.")
    print(f"No agent answers {sum(marked)} of {len(rows)} rows under attack. Rows: {arguments.output}")
