"""`aajr calibrate`: find the temperature at which an agent is as sure of its answers as it is right."""

from __future__ import annotations

from pathlib import Path

from ...environments import held_out_rows
from ...training.data.system_prompts import with_system_prompt
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.validators import check_at_least_one, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import UserError, user_errors

DESCRIPTION = """Find the temperature with the lowest negative log-likelihood of the right answers on held-out observations, and write
it into generation_config.json of the model, so that `generate` samples at it. A penalty on the Jacobian shrinks logits: the
agent becomes less sure than it is right, which only sampling shows. Greedy answers stay the same, but `generate` is no longer
greedy by default (`do_sample=False` is).

    aajr calibrate outputs/congestion-aajr
    aajr evaluate outputs/congestion-aajr --own_temperature
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("calibrate", description=DESCRIPTION)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a model")
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    parser.add_argument(
        "--examples", type=int, default=512, help="number of held-out observations (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=128, help="examples in a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of observations; those of aajr evaluate have 0 (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    check_at_least_one(arguments, "examples", "batch_size")
    check_seed(arguments.seed, "--seed")
    if (arguments.model / "adapter_config.json").is_file():
        raise UserError(
            f"{arguments.model} is an adapter, which has no generation_config.json: merge it with `aajr merge`."
        )
    if not (arguments.model / "config.json").is_file():
        raise UserError(
            f"{arguments.model} is no folder of a model: give one, because the temperature is written there."
        )
    write_temperature(arguments)
    return 0


def write_temperature(arguments) -> None:
    """
    Calibrate the model, write its temperature and print what changed.

    Raises:
        UserError: if the model cannot be loaded or does not fit the world; nothing is written then.
    """
    from ...evaluation.agents import load_agent
    from ...evaluation.robustness.calibration import COLDEST, HOTTEST, calibrate, save_temperature

    world = world_for([str(arguments.model)], arguments.environment)
    prompt = system_prompt_for([str(arguments.model)], arguments.system_prompt)
    rows = with_system_prompt(held_out_rows(world, arguments.examples, seed=arguments.seed), prompt)
    with user_errors():
        model, tokenizer = load_agent(str(arguments.model))
        found = calibrate(model, tokenizer, rows, arguments.batch_size)
        save_temperature(arguments.model, model.generation_config, found.temperature)
    print(
        f"Temperature {found.temperature:.3g}: {found.nll[1]:.4g} nats per token (at 1: {found.nll[0]:.4g}); sampled answers are "
        f"right in {found.sampled[1]:.1f} % (at 1: {found.sampled[0]:.1f} %) of {len(rows)} observations."
    )
    if found.at_bound:
        print(
            f"There is no best temperature between {COLDEST:g} and {HOTTEST:g}, as for an agent that is right in all observations: give "
            "more `--examples`."
        )
    print(f"Written to {arguments.model / 'generation_config.json'}.")
