"""
What a guard of shared caches takes out, and what it costs: accuracy of new decoders on private words against the success of
the peers that read the caches, over beta.

    python scripts/guard_study.py                     # about half an hour on one core
    python scripts/guard_study.py --betas 1 --links one all

One base agent of `congestion` is made with `aajr init-agent --share_cache`. For each beta, a guard is trained against a decoder
that sees one link, or, with `--links all`, all links of a sender. The agent and guards that exist in `--work` are not made again. The script writes guard.json, .md and .png
to `--output`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from recipe_study import ROOT, run_command

from aajr_hf.evaluation.reporting.plots import WIDE, panels, render

PRIVATE, AGENTS = ("owe", "prefer"), "4"
# Of the guards that are compared, in the figure and in the table.
STYLES = {"one": ("#0072B2", "o"), "all": ("#D55E00", "s")}
INTRODUCTION = """# What a guard of shared caches takes out

`python scripts/guard_study.py` makes this page and `guard.json`. An agent of `congestion` among four that reads its peers' messages
from raw caches answers {success:.1f} % of {examples} held-out observations rightly. For each beta, guards are trained
for {steps} steps, against a decoder that sees {seen}. Then new decoders are trained on the frozen guard
for {decoder_steps} steps. *Named* is how often they name the private word of a held-out sender, in percent: the better of the decoder of the
guard's own size and a larger one, from one link and from all. *Right* are the readers' answers. One seed."""


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Return the results of each guard, as `aajr guard` writes them."""
    agent, found = arguments.work / "agent", []
    if not (agent / "config.json").is_file():
        steps = [] if arguments.agent_steps is None else ["--steps", str(arguments.agent_steps)]
        run_command(["init-agent", str(agent), "--share_cache", "--agents", AGENTS, *steps], agent)
    for links in arguments.links:
        for beta in sorted(arguments.betas):
            folder = arguments.work / f"guard-{links}-{beta:g}"
            if not (folder / "guard.json").is_file():
                asked = [
                    "--beta",
                    str(beta),
                    "--links",
                    links,
                    "--steps",
                    str(arguments.steps),
                    "--output",
                    str(folder),
                ]
                run_command(["guard", str(agent), "--private", *PRIVATE, "--agents", AGENTS, *asked], folder)
                print(f"made {folder.name}", flush=True)
            found.append(json.loads((folder / "guard.json").read_text()))
    return [run | {"model": Path(run["model"]).name} for run in found]


def named(run: dict, word: str, links: str) -> float:
    """Return the accuracy of the best of the decoders that see these links."""
    (leak,) = (leak for leak in run["leakage"] if (leak["word"], leak["links"]) == (word, links))
    return max(leak["fresh"], leak["adaptive"])


def chance(runs: list[dict], word: str) -> float:
    return next(leak["chance"] for leak in runs[0]["leakage"] if leak["word"] == word)


def page(runs: list[dict]) -> str:
    first = runs[0]
    lines = [
        INTRODUCTION.format(
            success=first["raw_success"],
            examples=first["examples"],
            steps=first["steps"],
            seen=_seen(runs),
            decoder_steps=first["decoder_steps"],
        ),
        "",
    ]
    columns = [f"{word}, {links}" for word in PRIVATE for links in STYLES]
    lines.append(f"| trained on | beta | right | {' | '.join(f'named: {column}' for column in columns)} |")
    lines.append("|---|" + "---:|" * (2 + len(columns)))
    raw = {(leak["word"], leak["links"]): leak["raw"] for leak in first["leakage"]}
    rows = [["no guard", "", f"{first['raw_success']:.1f}", *(f"{raw[w, k]:.1f}" for w in PRIVATE for k in STYLES)]]
    for run in runs:
        cells = [f"{named(run, word, links):.1f}" for word in PRIVATE for links in STYLES]
        rows.append([f"{run['links']}", f"{run['beta']:g}", f"{run['guarded_success']:.1f}", *cells])
    rows.append(["chance", "", "", *(f"{chance(runs, word):.1f}" for word in PRIVATE for _ in STYLES)])
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", "![Named private words and right answers over beta](guard.png)", ""])


def _seen(runs: list[dict]) -> str:
    said = {"one": "one link", "all": "all links of a sender"}
    return " or ".join(said[links] for links in dict.fromkeys(run["links"] for run in runs))


def draw(figure: Figure, runs: list[dict]) -> None:
    """One panel for each private word: what is named from one link and from all, and what is right, over beta."""
    betas = sorted({run["beta"] for run in runs})
    for axes, word in zip(panels(figure, tuple(f"private word: {word}" for word in PRIVATE)), PRIVATE, strict=True):
        for trained in dict.fromkeys(run["links"] for run in runs):
            color, marker = STYLES[trained]
            mine = [next(run for run in runs if (run["links"], run["beta"]) == (trained, beta)) for beta in betas]
            for links, line in (("one", "-"), ("all", ":")):
                label = f"named from {links}, guard of {trained}"
                axes.plot(
                    range(len(betas)),
                    [named(run, word, links) for run in mine],
                    line,
                    color=color,
                    marker=marker,
                    label=label,
                )
            right = [run["guarded_success"] for run in mine]
            axes.plot(range(len(betas)), right, "--", color=color, alpha=0.6, label=f"right, guard of {trained}")
        axes.axhline(chance(runs, word), color="#000000", linewidth=1, label="chance")
        axes.set(xlabel="beta", ylabel="percent", ylim=(0, 102))
        axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.legend(fontsize="x-small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "guard-study", help="folder of agent and guards"
    )
    parser.add_argument("--betas", type=float, nargs="+", default=[0.1, 1.0], help="(default: 0.1 1)")
    parser.add_argument("--links", nargs="+", default=["one"], choices=list(STYLES), help="of training (default: one)")
    parser.add_argument(
        "--steps", type=int, default=300, help="of each guard; decoders take five times as many (default: %(default)s)"
    )
    parser.add_argument("--agent_steps", type=int, help="of the base agent (default: as aajr init-agent says)")
    arguments = parser.parse_args()
    runs = measure(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(run) for run in runs)  # one run per line
    (arguments.output / "guard.json").write_text(f"[\n{lines}\n]\n")
    (arguments.output / "guard.md").write_text(page(runs))
    (arguments.output / "guard.png").write_bytes(render(lambda figure: draw(figure, runs), WIDE))


if __name__ == "__main__":
    main()
