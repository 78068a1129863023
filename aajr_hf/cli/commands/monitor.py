"""`aajr monitor`: does an agent in production still do what it did when it was measured?"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...environments import held_out_rows
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.validators import check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import Interrupted, UserError, user_errors

if TYPE_CHECKING:
    from ...evaluation.monitoring.log import Exchange, Log
    from ...evaluation.monitoring.monitor import Monitor
    from ...evaluation.monitoring.observations import ObservationScores

# Exit status after an alarm, so that cron and CI can act.
ALARM = 3
_POLL_SECONDS = 2.0
DESCRIPTION = f"""Read logs of what an agent was asked and answered, and test whether something has changed: fewer right answers than
when the agent was measured, or observations unlike those that it knows. An agent without a change raises an alarm with
probability `--alpha` at most, however long the logs are and however often they are read.

    aajr simulate --model outputs/agent --transcript --output outputs/calls
    aajr monitor outputs/calls/episodes.jsonl --agent outputs/agent --expected 97
    aajr monitor production.jsonl --agent outputs/agent --evaluation outputs/evaluation --follow --metrics aajr.prom

A line of a log is a JSON object with `observation` and `answer`, and if they are known `expected` (the right answer),
`unchanged` (the observation before its words were changed) and `moved` (the length of a perturbation of the embeddings, in
mean embedding norms); or an episode of `aajr simulate --transcript`. After an alarm, the exit status is {ALARM}.
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("monitor", description=DESCRIPTION)
    add = parser.add_argument
    add("logs", nargs="+", type=Path, metavar="LOG", help="JSON lines, in the order of time; they may grow")
    add("--agent", required=True, metavar="DIR", help="folder of a model or an adapter, or name on the Hub")
    add(
        "--expected",
        type=float,
        metavar="PERCENT",
        help="share of right answers to expect (default: the lower end of the interval of the agent's nominal success)",
    )
    add(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="results of `aajr evaluate` with this agent (default: those in the agent's own folder, if there are any)",
    )
    add(
        "--baseline",
        type=Path,
        metavar="LOG",
        help="log from when all was well: its success is expected, and its observations are known (default: held-out observations of "
        "the agent's world)",
    )
    add("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    add("--alpha", type=float, default=0.01, help="probability of a false alarm (default: %(default)s)")
    add("--examples", type=int, default=512, help="known observations to compare with (default: %(default)s)")
    add("--batch_size", type=int, default=64, help="observations in a forward pass (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of known observations (default: %(default)s)")
    add(
        "--output",
        type=Path,
        default=Path("outputs/monitor"),
        help="folder for monitor.json and monitor.html (default: %(default)s)",
    )
    add("--metrics", type=Path, metavar="FILE", help="also write metrics in Prometheus' text format")
    add("--follow", action="store_true", help="keep reading as the logs grow, until an alarm or Ctrl-C")
    arguments = parser.parse_args(argv)
    _check(arguments)
    return ALARM if watch(arguments) else 0


def _check(arguments) -> None:
    for name in ("examples", "batch_size"):
        if getattr(arguments, name) < (2 if name == "examples" else 1):
            least = 2 if name == "examples" else 1
            raise UserError(f"`--{name}` must be at least {least}; got {getattr(arguments, name)}.")
    if not 0 < arguments.alpha < 1:
        raise UserError(f"`--alpha` must be between 0 and 1; got {arguments.alpha}.")
    if arguments.expected is not None and not 0 < arguments.expected <= 100:
        raise UserError(f"`--expected` must be a percentage above 0 and up to 100; got {arguments.expected}.")
    given = [name for name in ("expected", "evaluation", "baseline") if getattr(arguments, name) is not None]
    if {"expected", "evaluation"} <= set(given):
        raise UserError("`--expected` and `--evaluation` both say what to expect: leave one out.")
    check_seed(arguments.seed, "--seed")
    for file in [*arguments.logs, *filter(None, [arguments.baseline])]:
        if not file.is_file():
            raise UserError(f"There is no log {file}: give a file of JSON lines.")
    check_output(arguments.output, "--output")
    if arguments.metrics is not None:
        if arguments.metrics.is_dir():
            raise UserError(f"`--metrics`: {arguments.metrics} is a folder: give the name of a file.")
        check_output(arguments.metrics.parent, "--metrics")


def watch(arguments) -> bool:
    """
    Read the logs, write the results, and print what is known. Return whether there is an alarm.

    Raises:
        UserError: if the agent, a log or what to expect cannot be used; nothing is written then.
        Interrupted: on Ctrl-C with `--follow`; the results of what was read are written.
    """
    from ...evaluation.monitoring.log import Log
    from ...evaluation.monitoring.monitor import Monitor

    logs = [Log(file) for file in arguments.logs]
    calm = None if arguments.baseline is None else Log(arguments.baseline)
    baseline = [] if calm is None else _read_all(calm)
    with user_errors():
        lines = _new_lines(logs)
    _check_alike(logs, calm)
    expected, expected_from = _expected(arguments, baseline)
    # Held-out observations are single ones, and not to be compared with those of episodes.
    comparable = bool(baseline) or all(len(line) == 1 for line in lines)
    scores, known, known_from = _known(arguments, baseline, comparable)
    if expected is None and not known:
        raise UserError("Nothing is known to compare with: give `--baseline`, `--expected` or `--evaluation`.")
    monitor = Monitor(None if expected is None else expected / 100, known, arguments.alpha, arguments.seed)
    settings = {
        "logs": list(map(str, arguments.logs)),
        "agent": arguments.agent,
        "alpha": arguments.alpha,
        "expected_from": expected_from,
        "known_from": known_from,
    }
    with user_errors():
        _add(lines, monitor, scores)
    if not monitor.answers and not arguments.follow:
        raise UserError(f"{', '.join(settings['logs'])}: there is no complete line.")
    _write(monitor, settings, arguments)
    if arguments.follow:
        _follow(logs, calm, monitor, scores, settings, arguments)
    _print(monitor, arguments)
    return monitor.alarm


def _follow(
    logs: list[Log], calm: Log | None, monitor: Monitor, scores: ObservationScores, settings: dict, arguments
) -> None:
    """Read on until there is an alarm."""
    try:
        while not monitor.alarm:
            time.sleep(_POLL_SECONDS)
            with user_errors():
                if lines := _new_lines(logs):
                    _check_alike(logs, calm)
                    _add(lines, monitor, scores)
                    _write(monitor, settings, arguments)
    except KeyboardInterrupt as error:
        _print(monitor, arguments)
        raise Interrupted(f"after {monitor.answers} answers, without an alarm.") from error


def _new_lines(logs: list[Log]) -> list[list[Exchange]]:
    """Return the exchanges of each line that was written since the last time."""
    return [line for log in logs for line in log.new() if line]


def _add(lines: list[list[Exchange]], monitor: Monitor, scores: ObservationScores) -> None:
    values = scores.of_lines(lines) if monitor.oddness else {}
    for i, line in enumerate(lines):
        for exchange in line:
            moved = exchange.moved
            if moved is None and exchange.unchanged is not None:
                moved = scores.moved(exchange)
            monitor.add(exchange, moved)
        monitor.add_scores({name: column[i] for name, column in values.items()})


def _read_all(calm: Log) -> list[list[Exchange]]:
    with user_errors():
        found = _new_lines([calm])
    if len(found) < 2:
        raise UserError(f"`--baseline`: {calm.file} has {len(found)} complete lines: give a log with at least two.")
    return found


def _check_alike(logs: list[Log], calm: Log | None) -> None:
    """
    Check that the baseline holds what the logs hold. An episode counts as one, with the mean of its many observations,
    so that any single exchange would look odd beside it.

    Raises:
        UserError: if not; names both files.
    """
    for log in logs if calm is not None else ():
        if other := sorted(log.holds - calm.holds):
            raise UserError(
                f"`--baseline`: {calm.file} holds {' and '.join(sorted(calm.holds))}, and {log.file} {other[0]}, which cannot be "
                f"compared with them: give a baseline of {other[0]}."
            )


def _expected(arguments, baseline: list[list[Exchange]]) -> tuple[float | None, str]:
    """Return the share of right answers to expect, in percent, and where it comes from."""
    from ...evaluation.reporting.statistics import wilson
    from ...training.sharing.model_card import EVALUATION, run_of
    from ...training.sharing.reading import read_results

    if arguments.expected is not None:
        return arguments.expected, "--expected"
    judged = [exchange.is_right for line in baseline for exchange in line if exchange.is_right is not None]
    if judged and arguments.evaluation is None:
        return wilson(100 * sum(judged) / len(judged), len(judged))[
            0
        ], f"{sum(judged)} of {len(judged)} in the baseline"
    folder = Path(arguments.agent)
    where = folder / EVALUATION if arguments.evaluation is None else arguments.evaluation
    run = None
    if arguments.evaluation is not None or (where / "results.json").is_file():
        with user_errors():
            run = run_of(read_results(where / "results.json"), folder)
    if run is None:
        if arguments.evaluation is not None:
            raise UserError(
                f"`--evaluation`: {where} has no numbers of {arguments.agent}: evaluate it, or give `--expected`."
            )
        return None, "nothing"
    field = "nominal_success" if "nominal_success" in run else "nominal_exact"
    return run["intervals"][field][0], str(where)


def _known(
    arguments, baseline: list[list[Exchange]], comparable: bool
) -> tuple[ObservationScores, dict[str, list[float]], str | None]:
    """Return the scores of observations, their values on known ones if they are `comparable`, and where these come from."""
    from ...evaluation.monitoring.log import Exchange
    from ...evaluation.monitoring.observations import ObservationScores
    from ..common.measuring import load_agents

    # From the whole baseline: what is close in time is alike.
    known = baseline[:: -(-len(baseline) // arguments.examples)] if baseline else []
    source = str(arguments.baseline)
    if not known:
        world = world_for([arguments.agent], arguments.environment)
        rows = held_out_rows(world, arguments.examples, seed=arguments.seed)
        known = [[Exchange(row["prompt"][-1]["content"], row["completion"][0]["content"])] for row in rows]
        source = f"{world}, held out"
    prompt = system_prompt_for([arguments.agent], arguments.system_prompt)
    (agent,) = load_agents({"": arguments.agent})
    # Distances are measured to the earlier half, and new scores are compared with those of the later half.
    half = len(known) // 2
    reference = [exchange for line in known[:half] for exchange in line]
    with user_errors():
        scores = ObservationScores(agent.model, agent.tokenizer, reference, arguments.batch_size, prompt)
        return (scores, scores.of_lines(known[half:]), source) if comparable else (scores, {}, None)


def _write(monitor: Monitor, settings: dict, arguments) -> None:
    from ...evaluation.files import replace_file
    from ...evaluation.monitoring.report import prometheus_text, write_monitor
    from ...training.sharing.reading import RESULTS_VERSION

    numbers = monitor.numbers()
    results = {"kind": "monitoring", "version": RESULTS_VERSION, "settings": settings} | numbers
    write_monitor(results, arguments.output)
    if arguments.metrics is not None:
        replace_file(arguments.metrics, prometheus_text(numbers, arguments.agent).encode())


def _print(monitor: Monitor, arguments) -> None:
    from rich.console import Console

    from ...evaluation.monitoring.report import PAGE, monitor_sentences

    printed = Console(markup=False)
    numbers = monitor.numbers()
    for sentence in monitor_sentences(numbers):
        printed.print(sentence, soft_wrap=True, highlight=False)
    if monitor.success is not None and not monitor.alarm and monitor.judged:
        lower = max(monitor.success.expected - 0.1, 0.0)
        needed = monitor.success.answers_until(lower, monitor.judged, monitor.level)
        if math.isfinite(needed):
            printed.print(
                f"A drop by 10 points would raise an alarm after about {needed:.0f} answers.", highlight=False
            )
    printed.print(f"Report: {arguments.output / PAGE}", soft_wrap=True, highlight=False)
