"""`aajr simulate`: play whole episodes of a world with agents that answer in text."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments import WORLDS
from ...evaluation.attacks.lessons import PREDICTED
from ...evaluation.episodes.players import ALONE, SUITE
from ...evaluation.episodes.rewriting import NUMBERS, ON_TEXTS, TRIGGER
from ...evaluation.episodes.served import is_served
from ...evaluation.processes import number_of_processes
from ..arguments.options import ArgumentParser
from ..arguments.placement import add_placement, check_placement, recorded_placement
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.threat import add_threat, threat_of
from ..arguments.validators import check_at_least_one, check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import Interrupted, UserError, user_errors
from ..common.processes import is_first
from ..launching.measuring import add_launch, launched, parse_launch, together
from .simulate_players import (
    OPTIONS,
    SCRIPTED,
    check_attack,
    check_sharing,
    moves_embeddings,
    players_of,
    repeated_sentences,
)

if TYPE_CHECKING:
    from ...training.sharing.results import EpisodeResults, EpisodeSettings

FILE = "episodes.jsonl"
DESCRIPTION = """Play whole episodes of a world: each agent reads its observation and answers in text, and the answers change the next
observations of all. With `--shock`, the world changes after the first third of the episode; with `--attack`, an adversary
moves the embeddings of every prompt of the model. Prints a table of means over episodes; writes one JSON line per episode.

    aajr simulate --env congestion --model outputs/agent --shock capacity_drop --magnitude 6
    aajr simulate --model outputs/agent --attack suite --epsilon 0.25 --picture outputs/episode.gif
    aajr simulate --env congestion --model http://localhost:8000/v1 --attack token     # a model that is served
    aajr simulate --model outputs/agent --share_cache --guard outputs/guard            # peers hand over caches
"""


def run(argv: list[str]) -> int:
    arguments, own, flags = parse_launch(_parser(), argv)
    _check(arguments)
    check_placement(arguments)
    if (status := launched("simulate", arguments, own, flags)) is not None:
        return status
    players = [model for model in (arguments.model, arguments.opponent) if model not in (None, SCRIPTED)]
    models = [model for model in players if not is_served(model)]
    world = world_for(models, arguments.environment)
    if arguments.system_prompt and not players:
        raise UserError(f"`--system_prompt` has no effect on {SCRIPTED} experts: give a model, too, or leave it out.")
    arguments.system_prompt = system_prompt_for(models, arguments.system_prompt)  # the text, not the file
    if not models and (recorded_placement(arguments) or arguments.device_map is not None):
        raise UserError(
            "`--dtype` and `--device_map` have no effect without a model that is loaded here: leave them out."
        )
    if arguments.opponent is None and WORLDS[world].two_sided:
        arguments.opponent = SCRIPTED
    if moves_embeddings(arguments.attack):
        arguments.threat = threat_of(arguments, [arguments.model])
    for name, default in (("attack_steps", 10), ("attack_restarts", 1), ("token_trials", 8)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    with together():
        simulate(arguments, world)
    return 0


def _parser() -> ArgumentParser:
    epilog = "shocks, and what their magnitude counts:\n" + _shocks()
    parser = ArgumentParser("simulate", description=DESCRIPTION, epilog=epilog)
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="DIR",
        help=f"folder of a model or an adapter, name on the Hub, {SCRIPTED} for the scripted experts, or the address of a server "
        "with a chat API like OpenAI's, such as http://localhost:8000/v1 or http://localhost:8000/v1#MODEL",
    )
    add(
        "--opponent",
        metavar="DIR",
        help=f"model of the other side: of the seekers in hide_and_seek (default there: {SCRIPTED}), of every second agent in other "
        "worlds (default there: no other side)",
    )
    add("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    add("--agents", type=int, default=10, help="number of agents in an episode (default: %(default)s)")
    add("--episodes", type=int, default=20, help="number of episodes (default: %(default)s)")
    add("--steps", type=int, help="steps of an episode (default: as the world says)")
    add("--shock", metavar="KIND", help="shock after the first third of each episode; the list is below")
    add("--magnitude", type=int, help="strength of the shock, in the units that are listed below")
    add(
        "--attack",
        choices=[*ALONE, PREDICTED, SUITE, *ON_TEXTS],
        help="attack on the embeddings of the model's prompts: ascent on the loss of this name, random points, a step along the "
        f"gradient that --predictor predicts ({PREDICTED}), or all of them ({SUITE}: all but {PREDICTED}). On its texts, without "
        f"a look into the model: words of a bank ({TRIGGER}), or other numbers ({NUMBERS})",
    )
    add("--triggers", metavar="FILE", help=f"bank of triggers (aajr triggers), for --attack {TRIGGER}")
    add("--token_trials", type=int, help=f"rewritings of each prompt, for --attack {NUMBERS} (default: 8)")
    add(
        "--predictor",
        type=Path,
        metavar="FILE",
        help=f"predictor of gradients, written by `aajr screen --save`, for --attack {PREDICTED}, which makes forward passes only",
    )
    add(
        "--share_cache",
        action="store_true",
        help="each agent reads what a peer's key-value cache says instead of text: what it would read of its peers, told by the agent "
        "before it, whose cache also holds its own words",
    )
    add("--guard", type=Path, metavar="DIR", help="guard of these caches, made by `aajr guard` (default: none)")
    add("--attack_steps", type=int, help="steps of each ascent (default: 10)")
    add("--attack_restarts", type=int, help="ascents per prompt (default: 1)")
    add(
        "--temperature",
        type=float,
        default=0.0,
        help="sampling temperature; with 0, the most likely token is taken (default: 0)",
    )
    add("--batch_size", type=int, default=128, help="prompts in a forward pass (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the episodes and of the attacks (default: %(default)s)")
    add(
        "--output",
        type=Path,
        default=Path("outputs/simulation"),
        help=f"folder for {FILE}; an older file is replaced (default: %(default)s)",
    )
    add("--transcript", action="store_true", help=f"also write all observations and answers into {FILE}")
    add("--picture", type=Path, metavar="FILE", help="draw the first episode: a film (.gif) or four moments (.png)")
    add_threat(parser)
    add_placement(parser)
    add_launch(parser, "episodes, as many at once as fill a batch")
    return parser


def _shocks() -> str:
    return "\n".join(
        f"  {name}: {kind}: {text}" for name, world in WORLDS.items() for kind, text in world.shocks.items()
    )


def _check(arguments) -> None:
    check_at_least_one(arguments, "episodes", "attack_steps", "attack_restarts", "batch_size", "token_trials")
    check_seed(arguments.seed, "--seed")
    if not 0 <= arguments.temperature < math.inf:
        raise UserError(f"`--temperature` must be a finite number of at least 0; got {arguments.temperature}.")
    check_attack(arguments)
    check_sharing(arguments)
    if arguments.shock is not None and arguments.magnitude is None:
        raise UserError("`--shock` needs `--magnitude`: give its strength, in the units that --help lists.")
    picture = arguments.picture
    if picture is not None and (picture.suffix not in (".gif", ".png") or picture.is_dir()):
        raise UserError(f"`--picture` must be the name of a .gif or .png file; got {picture}.")
    check_output(arguments.output, "--output")
    if picture is not None:
        check_output(picture.parent, "--picture")


def simulate(arguments, name: str) -> None:
    """
    Play the episodes in the world of this name, write them as they finish, and print the table.

    Raises:
        UserError: if the world or a model is not available; nothing is written then.
        Interrupted: on Ctrl-C; the file contains all finished episodes.
    """
    from rich.console import Console

    from ...evaluation.episodes.play import malformed_sentences, simulation_table
    from ...evaluation.reporting.results import number_text

    worlds = _worlds(name, arguments)
    groups, processes = -(-arguments.episodes // len(worlds)), number_of_processes()
    if groups < processes:
        raise UserError(
            f"`--num_processes` {processes} is more than the {groups} groups of at most {len(worlds)} episodes that are played "
            "side by side: give fewer processes or a smaller `--batch_size`."
        )
    with user_errors():
        players = players_of(arguments, worlds[0])
    file, records = arguments.output / FILE, []
    began = time.monotonic()
    try:
        with user_errors():
            _play(worlds, players, arguments, _settings(arguments, name), file, records)
    except KeyboardInterrupt as error:
        kept = (
            f"{len(records)} of {arguments.episodes} episodes are in {file}."
            if records
            else "no episode was finished."
        )
        raise Interrupted(kept) from error
    if not is_first():
        return
    seconds = time.monotonic() - began
    steps = sum(side["answers"] for record in records for side in record["sides"].values())
    console = Console()
    for sentence in [*repeated_sentences(players), *malformed_sentences(records)]:
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(simulation_table(records))
    console.print(
        f"{steps} agent steps in {seconds:.1f} s: {number_text(steps / seconds)} per second.", highlight=False
    )
    console.print(f"Episodes: {file}", soft_wrap=True, markup=False, highlight=False)


def _play(
    worlds: list[Any],
    players: list[Any],
    arguments,
    settings: EpisodeSettings,
    file: Path,
    records: list[EpisodeResults],
) -> None:
    """Play the episodes and add them to the records. The file contains all records however this ends."""
    from ...evaluation.episodes.film import Film
    from ...evaluation.episodes.play import episode_seeds, play
    from ...evaluation.files import replace_file
    from ...evaluation.processes import gathered, my_share
    from ..common.progress import bars

    film, picture = Film(), arguments.picture
    how = {"share_cache": arguments.share_cache, "transcript": arguments.transcript}
    with bars() as progress:
        task = progress.add_task("Simulating", total=arguments.episodes)

        def watch(playing: list[Any]) -> None:
            parts = (world.step_count / world.steps if world.agents else 1.0 for world in playing)
            progress.update(task, completed=len(records) + sum(parts))
            if picture is not None and not records and is_first():
                film.shoot(playing[0])

        seeds = episode_seeds(arguments.episodes, arguments.seed)
        groups = [seeds[start : start + len(worlds)] for start in range(0, len(seeds), len(worlds))]
        processes = number_of_processes()
        for start in range(0, len(groups), processes):
            some = groups[start : start + processes]
            played = {
                number: next(play(worlds, some[number], *players, **how, on_step=watch))
                for number in my_share(len(some))
            }
            begins = not records
            records += [settings | record for group in gathered(played) for record in group]
            if not is_first():
                continue
            # Write the whole file each time and rename it, so that it never contains a partial line.
            replace_file(file, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
            if picture is not None and begins:
                replace_file(picture, film.develop(picture.suffix))


def _worlds(name: str, arguments) -> list[Any]:
    """Make equal worlds, as many as are needed to fill a batch with their agents."""
    side_by_side = min(max(arguments.batch_size // max(arguments.agents, 1), 1), arguments.episodes)
    fields = {"agents": arguments.agents, "steps": arguments.steps}
    fields |= {"shock": arguments.shock, "magnitude": arguments.magnitude or 0}
    try:
        return [WORLDS[name](**fields) for _ in range(side_by_side)]
    except ValueError as error:  # the message names the argument
        raise UserError(re.sub(rf"`({'|'.join(fields)})`", r"`--\1`", str(error))) from error


def _settings(arguments, name: str) -> EpisodeSettings:
    """Return the settings, which are written in every line so that lines of several runs can be combined."""
    kept = ["model", "opponent", "agents", "shock", "magnitude", "temperature", "attack"]
    kept += ["system_prompt"] if arguments.system_prompt is not None else []
    moved = moves_embeddings(arguments.attack)
    kept += ["attack_steps", "attack_restarts"] if moved else []
    kept += [OPTIONS[arguments.attack]] if arguments.attack in OPTIONS else []
    kept += ["share_cache"] if arguments.share_cache else []
    threat = (asdict(arguments.threat) if moved else {}) | recorded_placement(arguments)
    threat |= {"guard": str(arguments.guard)} if arguments.guard is not None else {}
    return {"kind": "episodes", "world": name} | {field: getattr(arguments, field) for field in kept} | threat
