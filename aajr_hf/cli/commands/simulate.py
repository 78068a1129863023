"""`aajr simulate`: play whole episodes of a world with agents that answer in text."""

from __future__ import annotations

import functools
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
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.threat import FIELDS, add_threat, threat_of
from ..arguments.validators import check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import Interrupted, UserError, user_errors

if TYPE_CHECKING:
    from ...training.sharing.results import EpisodeResults, EpisodeSettings

SCRIPTED = "scripted"
FILE = "episodes.jsonl"
DESCRIPTION = """Play whole episodes of a world: each agent reads its observation and answers in text, and the answers change the next
observations of all. With `--shock`, the world changes after the first third of the episode; with `--attack`, an adversary
moves the embeddings of every prompt of the model. Prints a table of means over episodes; writes one JSON line per episode.

    aajr simulate --env congestion --model outputs/agent --shock capacity_drop --magnitude 6
    aajr simulate --model outputs/agent --attack suite --epsilon 0.25 --picture outputs/episode.gif
"""


def run(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    models = [model for model in (arguments.model, arguments.opponent) if model not in (None, SCRIPTED)]
    world = world_for(models, arguments.environment)
    if arguments.system_prompt and not models:
        raise UserError(f"`--system_prompt` has no effect on {SCRIPTED} experts: give a model, too, or leave it out.")
    arguments.system_prompt = system_prompt_for(models, arguments.system_prompt)  # the text, not the file
    if arguments.opponent is None and WORLDS[world].two_sided:
        arguments.opponent = SCRIPTED
    if arguments.attack is not None:
        arguments.threat = threat_of(arguments, [arguments.model])
    for name, default in (("attack_steps", 10), ("attack_restarts", 1)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
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
        help=f"folder of a model or an adapter, name on the Hub, or {SCRIPTED} for the scripted experts",
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
        choices=[*ALONE, PREDICTED, SUITE],
        help="attack on the embeddings of the model's prompts: ascent on the loss of this name, random points, a step along the "
        f"gradient that --predictor predicts ({PREDICTED}), or all of them ({SUITE}: all but {PREDICTED})",
    )
    add(
        "--predictor",
        type=Path,
        metavar="FILE",
        help=f"predictor of gradients, written by `aajr screen --save`, for --attack {PREDICTED}, which makes forward passes only",
    )
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
    return parser


def _shocks() -> str:
    return "\n".join(
        f"  {name}: {kind}: {text}" for name, world in WORLDS.items() for kind, text in world.shocks.items()
    )


def _check(arguments) -> None:
    for name in ("episodes", "attack_steps", "attack_restarts", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"`--{name}` must be at least 1; got {getattr(arguments, name)}.")
    check_seed(arguments.seed, "--seed")
    if not 0 <= arguments.temperature < math.inf:
        raise UserError(f"`--temperature` must be a finite number of at least 0; got {arguments.temperature}.")
    for name in (*FIELDS, "attack_steps", "attack_restarts"):
        if arguments.attack is None and getattr(arguments, name) is not None:
            raise UserError(f"`--{name}` has no effect without an attack: give `--attack`, too.")
    if (arguments.attack == PREDICTED) != (arguments.predictor is not None):
        raise UserError(
            f"`--attack {PREDICTED}` and `--predictor` need each other: give both, with a file that `aajr screen --save` wrote."
        )
    if arguments.predictor is not None and not arguments.predictor.is_file():
        raise UserError(f"`--predictor`: there is no file {arguments.predictor}: write one with `aajr screen --save`.")
    if arguments.attack is not None and arguments.model == SCRIPTED:
        raise UserError(f"`--attack` perturbs the embeddings of a model: give a model as `--model`, not {SCRIPTED}.")
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
    with user_errors():
        players = _players(arguments, worlds[0])
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
    seconds = time.monotonic() - began
    steps = sum(side["answers"] for record in records for side in record["sides"].values())
    console = Console()
    for sentence in malformed_sentences(records):
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
    from ...evaluation.reporting.report import replace_file
    from ..common.progress import bars

    film, picture = Film(), arguments.picture
    with bars() as progress:
        task = progress.add_task("Simulating", total=arguments.episodes)

        def watch(playing: list[Any]) -> None:
            parts = (world.step_count / world.steps if world.agents else 1.0 for world in playing)
            progress.update(task, completed=len(records) + sum(parts))
            if picture is not None and not records:
                film.shoot(playing[0])

        seeds = episode_seeds(arguments.episodes, arguments.seed)
        for some in play(worlds, seeds, *players, transcript=arguments.transcript, on_step=watch):
            is_first = not records
            records += [settings | record for record in some]
            # Write the whole file each time and rename it, so that it never contains a partial line.
            replace_file(file, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
            if picture is not None and is_first:
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


def _players(arguments, world) -> list[Any]:
    """Return the players of the model's side and of the other side (or None); check that models accept the world."""
    from ...evaluation.agents import load_agent
    from ...evaluation.episodes.players import AttackSettings, Experts, ModelPlayer

    load = functools.cache(load_agent)
    attack = None
    if arguments.attack is not None:
        steps, restarts = arguments.attack_steps, arguments.attack_restarts
        attack = AttackSettings(arguments.threat, arguments.attack, steps, restarts, _predictor(arguments))

    def player(path: str | None, attack: AttackSettings | None):
        if path in (None, SCRIPTED):
            return Experts() if path else None
        settings = {name: getattr(arguments, name) for name in ("temperature", "batch_size", "system_prompt")}
        model = ModelPlayer(*load(path), attack=attack, **settings)
        model.check(list(world.rows().values()))
        return model

    world.reset(seed=0)

    return [player(arguments.model, attack), player(arguments.opponent, None)]


def _predictor(arguments):
    """Return the predictor of gradients on the device of the model; None without one."""
    from ...evaluation.agents import device
    from ...evaluation.attacks.predicted import GradientPredictor

    return None if arguments.predictor is None else GradientPredictor.load(arguments.predictor).to(device())


def _settings(arguments, name: str) -> EpisodeSettings:
    """Return the settings, which are written in every line so that lines of several runs can be combined."""
    kept = ["model", "opponent", "agents", "shock", "magnitude", "temperature", "attack"]
    kept += ["system_prompt"] if arguments.system_prompt is not None else []
    kept += ["attack_steps", "attack_restarts"] if arguments.attack is not None else []
    threat = asdict(arguments.threat) if arguments.attack is not None else {}
    return {"kind": "episodes", "world": name} | {field: getattr(arguments, field) for field in kept} | threat
