"""
What a guard of shared caches takes out, and what it costs: how often private words can be named, at most and by new decoders,
against the success of the peers that read the caches, over beta.

    python scripts/guard_study.py                     # about half an hour on one core
    python scripts/guard_study.py --betas 1

One base agent of `congestion` is made with `aajr init-agent --share_cache`, and a guard for each beta. The agent and guards
that exist in `--work` are not made again. The script writes guard.json, .md and .png to `--output`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from shared.commands import ROOT, run_command
from shared.tables import write_results

from aajr_hf.evaluation.reporting.plots import WIDE, panels, render

PRIVATE, AGENTS = ("owe", "prefer"), "4"
# What a decoder sees.
COLORS = {"one": "#0072B2", "all": "#D55E00"}
INTRODUCTION = """# What a guard of shared caches takes out

`python scripts/guard_study.py` makes this page and `guard.json`. An agent of `congestion` among four that reads its peers' messages
from raw caches answers {success:.1f} % of {examples} held-out observations rightly. For each beta, a guard is trained
for {steps} steps; then new decoders are trained on the frozen guard for {decoder_steps} steps. *Named* is how often they name the
private word of a held-out sender, in percent: the better of a small and a larger decoder, from one link and from all. *Bound* is what no decoder
exceeds. *Right* are the readers' answers. One seed."""


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Return the results of each guard, as `aajr guard` writes them."""
    agent, found = arguments.work / "agent", []
    if not (agent / "config.json").is_file():
        steps = [] if arguments.agent_steps is None else ["--steps", str(arguments.agent_steps)]
        run_command(["init-agent", str(agent), "--share_cache", "--agents", AGENTS, *steps], agent)
    for beta in sorted(arguments.betas):
        folder = arguments.work / f"guard-{beta:g}"
        if not (folder / "guard.json").is_file():
            asked = ["--beta", str(beta), "--steps", str(arguments.steps), "--output", str(folder)]
            run_command(["guard", str(agent), "--private", *PRIVATE, "--agents", AGENTS, *asked], folder)
            print(f"made {folder.name}", flush=True)
        found.append(json.loads((folder / "guard.json").read_text()))
    return [run | {"model": Path(run["model"]).name} for run in found]


def leak(run: dict, word: str, links: str) -> dict:
    """Return what is known of a private word, with `named`: the accuracy of the best decoder of guarded caches."""
    (found,) = (each for each in run["leakage"] if (each["word"], each["links"]) == (word, links))
    return found | {"named": max(found["fresh"], found["larger"])}


def page(runs: list[dict]) -> str:
    first = runs[0]
    kept = ("examples", "steps", "decoder_steps")
    lines = [INTRODUCTION.format(success=first["raw_success"], **{field: first[field] for field in kept}), ""]
    columns = [(word, links) for word in PRIVATE for links in COLORS]
    names = [f"{word}, {links}: {field}" for word, links in columns for field in ("named", "bound")]
    lines += [f"| beta | right | {' | '.join(names)} |", "|---|" + "---:|" * (1 + len(names))]
    raw = [cell for column in columns for cell in (f"{leak(first, *column)['raw']:.1f}", "")]
    rows = [["no guard", f"{first['raw_success']:.1f}", *raw]]
    for run in runs:
        cells = [f"{leak(run, *column)[field]:.1f}" for column in columns for field in ("named", "bound")]
        rows.append([f"{run['beta']:g}", f"{run['guarded_success']:.1f}", *cells])
    rows.append(["chance", "", *(c for column in columns for c in (f"{leak(first, *column)['chance']:.1f}", ""))])
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", "![Named private words, their bounds, and right answers over beta](guard.png)", ""])


def draw(figure: Figure, runs: list[dict]) -> None:
    """One panel for each private word: what is named from one link and from all, the bounds, and what is right, over beta."""
    places = range(len(runs))
    for axes, word in zip(panels(figure, tuple(f"private word: {word}" for word in PRIVATE)), PRIVATE, strict=True):
        for links, color in COLORS.items():
            leaks = [leak(run, word, links) for run in runs]
            axes.plot(places, [each["named"] for each in leaks], "o-", color=color, label=f"named, {links}")
            axes.plot(places, [each["bound"] for each in leaks], "v:", color=color, label=f"bound, {links}")
        axes.plot(places, [run["guarded_success"] for run in runs], "s--", color="#009E73", label="right answers")
        axes.axhline(leak(runs[0], word, "one")["chance"], color="#000000", linewidth=1, label="chance")
        axes.set(xlabel="beta", ylabel="percent", ylim=(0, 102))
        axes.set_xticks(places, [f"{run['beta']:g}" for run in runs])
    axes.legend(fontsize="x-small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "guard-study", help="folder of agent and guards"
    )
    parser.add_argument("--betas", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="(default: 0.01 0.1 1)")
    parser.add_argument(
        "--steps", type=int, default=600, help="of each guard; decoders take five times as many (default: %(default)s)"
    )
    parser.add_argument("--agent_steps", type=int, help="of the base agent (default: as aajr init-agent says)")
    arguments = parser.parse_args()
    runs = measure(arguments)
    write_results(arguments.output / "guard", runs, page(runs))
    (arguments.output / "guard.png").write_bytes(render(lambda figure: draw(figure, runs), WIDE))


if __name__ == "__main__":
    main()
