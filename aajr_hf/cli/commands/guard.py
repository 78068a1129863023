"""`aajr guard`: train a guard of the caches that agents share, and measure what passes it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...environments import WORLDS
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.validators import check_at_least_one, check_seed
from ..arguments.worlds import WORLD_HELP, check_agents, world_for
from ..common.errors import UserError, user_errors
from ..common.new_folder import check_new_folder, new_folder
from ..common.processes import check_alone

if TYPE_CHECKING:
    from ...guard.guard import CacheGuard
    from ...guard.links import Links
    from ...training.sharing.results import GuardResults

DESCRIPTION = """Train a guard of key-value caches that agents share: it makes each token's keys and values anew out of a short code with
noise, so that a peer still reads what it needs, and messages that differ in the sender's private words alone can hardly be told
apart. The model stays as it is. The table says what no decoder of the private words exceeds, and what new decoders find.

    aajr init-agent outputs/agent --share_cache
    aajr guard outputs/agent --private owe prefer
    aajr simulate --model outputs/agent --share_cache --guard outputs/guard
"""
# Decoders that are trained to measure: three for one link, three for all links.
_DECODERS = 6


def run(argv: list[str]) -> int:
    parser = ArgumentParser("guard", description=DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a model or an adapter, or name on the Hub")
    add(
        "--private",
        nargs="+",
        required=True,
        metavar="WORD",
        help="words of an observation whose values an agent keeps to itself: need, prefer, owe in congestion; ground, warden in commons",
    )
    add(
        "--beta",
        type=float,
        default=1.0,
        help="weight of the divergence between messages that differ in private words, in nats, against the loss of the readers "
        "(default: %(default)s)",
    )
    add("--output", type=Path, default=Path("outputs/guard"), help="new folder of the guard (default: %(default)s)")
    add("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    add("--agents", type=int, default=10, help="number of agents (default: %(default)s)")
    add("--bottleneck", type=int, default=32, help="width of a token's code (default: %(default)s)")
    add(
        "--steps",
        type=int,
        default=600,
        help="steps of the guard (default: %(default)s)",
    )
    add(
        "--decoder_steps",
        type=int,
        help="steps of each new decoder that measures the guard (default: five times --steps). More find more",
    )
    add("--batch_size", type=int, default=64, help="messages in a step (default: %(default)s)")
    add("--examples", type=int, default=500, help="held-out senders to measure on (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of messages and weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    check_alone("guard")
    if arguments.decoder_steps is None:
        arguments.decoder_steps = 5 * arguments.steps
    _check(arguments)
    make_guard(arguments)
    return 0


def _check(arguments) -> None:
    check_at_least_one(arguments, "bottleneck", "steps", "decoder_steps", "batch_size", "examples")
    if not 0 <= arguments.beta < math.inf:
        raise UserError(f"`--beta` must be a finite number of at least 0; got {arguments.beta}.")
    check_seed(arguments.seed, "--seed")
    check_new_folder(arguments.output, "--output")


def make_guard(arguments) -> None:
    """
    Train the guard, measure it, save it, and print what it takes and costs.

    Raises:
        UserError: if the model, the world or a private word cannot be used; nothing is written then.
    """
    from rich.console import Console

    from ...evaluation.reporting.tables import text_table
    from ...guard.saving import HEADERS, leak_cells, save_guard

    name = world_for([arguments.model], arguments.environment)
    links = _links(arguments, name)
    with new_folder(arguments.output) as whole:
        guard, results = _trained_and_measured(arguments, name, links)
        save_guard(guard, results, whole)
    printed = Console(markup=False)
    caption = f"Private words of {arguments.examples} held-out senders that decoders name, in percent; none exceeds the bound."
    printed.print(text_table(HEADERS, map(leak_cells, results["leakage"]), None, caption, left=2))
    if told := _told_anyway(results):
        printed.print(
            f"Decoders name {', '.join(told)} more often than the bound: the rest of the message says it, which no guard hides.",
            soft_wrap=True,
            highlight=False,
        )
    printed.print(
        f"Right answers of the readers: {results['raw_success']:.1f} % with raw caches, {results['guarded_success']:.1f} % with "
        f"guarded ones. Guard: {arguments.output}",
        soft_wrap=True,
        highlight=False,
    )


def _told_anyway(results: GuardResults) -> list[str]:
    """Return the private words that decoders name more often than the bound, by more than chance gives."""
    from ...evaluation.reporting.statistics import wilson

    examples = results["examples"]
    return sorted(
        {
            leak["word"]
            for leak in results["leakage"]
            if wilson(max(leak["fresh"], leak["larger"]), examples)[0] > leak["bound"]
        }
    )


def _links(arguments, name: str) -> dict[str, Links]:
    """Return the links of the agents, one of each sender and all of each sender, after a trial."""
    import numpy as np

    from ...evaluation.agents import load_agent
    from ...guard.links import Links, PrivateWords

    world = WORLDS[name]
    check_agents(world, arguments.agents)
    prompt = system_prompt_for([arguments.model], arguments.system_prompt)
    try:
        private = PrivateWords.of(world, arguments.private, arguments.agents)
    except ValueError as error:
        raise UserError(str(error).replace("`private`", "`--private`")) from error
    with user_errors():
        one = Links(*load_agent(arguments.model), world, arguments.agents, private, False, prompt)
        next(one.pairs(arguments.batch_size, np.random.default_rng(0)))
    return {"one": one, "all": replace(one, all_links=True)}


def _trained_and_measured(arguments, name: str, links: dict[str, Links]) -> tuple[CacheGuard, GuardResults]:
    from ...guard.guard import CacheGuard, cache_widths
    from ...guard.leakage import leaks, share_right
    from ...guard.links import TRAINING, streams
    from ...guard.training import train_guard
    from ...training.policy.policy import fixed_seed, frozen_parameters
    from ..common.progress import bars

    taught = links["one"]
    widths, device = cache_widths(taught.model), taught.model.device
    batches = taught.pairs(arguments.batch_size, streams(arguments.seed, TRAINING))
    how = {key: getattr(arguments, key) for key in ("examples", "batch_size", "seed")}
    with bars() as progress, fixed_seed(device, arguments.seed), frozen_parameters(taught.model):
        task = progress.add_task("Training the guard", total=arguments.steps)
        guard = CacheGuard(widths, arguments.bottleneck).to(device)
        train_guard(
            guard,
            batches,
            lambda states, sent: taught.reader_losses(states, sent)[0],
            steps=arguments.steps,
            beta=arguments.beta,
            on_step=lambda: progress.advance(task),
        )
        guard.eval()
        task = progress.add_task("Training decoders", total=_DECODERS)
        long = {key: getattr(arguments, key) for key in ("steps", "decoder_steps")}
        leaked = leaks(links, guard, on_decoder=lambda: progress.advance(task), **long, **how)
        success = [share_right(links["one"], used, **how) for used in (None, guard)]
    kept = ("model", "agents", "private", "beta", "bottleneck")
    results = {"kind": "guard", "world": name} | {key: getattr(arguments, key) for key in kept} | long | how
    results |= {"widths": [list(pair) for pair in widths], "raw_success": success[0], "guarded_success": success[1]}
    return guard, results | {"leakage": leaked}
