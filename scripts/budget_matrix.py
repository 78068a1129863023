"""
Must the radius of the defence match that of the attack, or exceed it? Agents are trained against adversaries of several
radii and attacked at the same radii, in every way that `aajr evaluate` knows.

    python scripts/budget_matrix.py                       # half an hour on two idle cores
    python scripts/budget_matrix.py --seeds 1 --radii 0.125 0.25

Training starts from docs/results/agents/congestion, with recipes/congestion/adversarial.yaml. Agents and evaluations that
exist in `--work` are not made again. The script writes budget-matrix.json, .md and .png to `--output`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from shared.commands import BASE, ROOT, evaluate_once, train_once
from shared.tables import text_of, write_results

from aajr_hf.evaluation.reporting.plots import render

RADII = (0.125, 0.25, 0.375, 0.5)
INTRODUCTION = """# Radius of the defence against radius of the attack

`python scripts/budget_matrix.py` makes this page and `budget-matrix.json`. One base agent of `congestion` is fine-tuned
against an adversary of each radius (a row), and attacked at each radius (a column) by every attack of `aajr evaluate`,
also with what was found on the others. Success is in percent of {examples} held-out observations a seed; with several seeds,
means with 95 % intervals over seeds (Student's t). Radii are multiples of the prompt's mean embedding norm."""


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Return a run for each agent: its seed, its radius (0 for the base agent) and its success at each radius."""
    runs, radii = [], sorted(arguments.radii)
    for seed in arguments.seeds:
        agents = {"0": BASE}
        for radius in radii:
            folder = arguments.work / f"defence-{radius:g}-{seed}"
            agents[f"{radius:g}"] = train_once(folder, "adversarial", {"epsilon": radius}, seed, arguments.max_steps)
        options = ["--epsilon", str(radii[0]), "--multiples", *(f"{radius / radii[0]:g}" for radius in radii)]
        options += ["--examples", str(arguments.examples), "--seed", str(seed)]
        found = evaluate_once(arguments.work / f"evaluation-{seed}", agents, options)
        for name, run in found.items():
            left = dict(zip((f"{r:g}" for r in radii), run["worst_case_success"].values(), strict=True))
            runs.append({"seed": seed, "defence": float(name), "nominal": run["nominal_success"], "attacked": left})
    return runs


def values(runs: list[dict], defence: float, attack: str) -> list[float]:
    """Return the success of each seed; `attack` is a radius, or `nominal`."""
    return [
        run["nominal"] if attack == "nominal" else run["attacked"][attack] for run in runs if run["defence"] == defence
    ]


def page(runs: list[dict], examples: int) -> str:
    attacks, defences = list(runs[0]["attacked"]), sorted({run["defence"] for run in runs})
    lines = [INTRODUCTION.format(examples=examples), "", f"| defence | no attack | {' | '.join(attacks)} |"]
    lines.append("|---|" + "---:|" * (len(attacks) + 1))
    for defence in defences:
        cells = [text_of(values(runs, defence, attack)) for attack in ("nominal", *attacks)]
        lines.append(f"| {'none' if defence == 0 else f'{defence:g}'} | {' | '.join(cells)} |")
    lines += ["", "Differences in points, paired by seed:", ""]
    for attack in attacks:
        lines.append(
            f"- attack {attack}: {'; '.join(_steps(runs, defences, attack))}. {_best(runs, defences, attack)}"
        )
    return "\n".join([*lines, "", "![Success by radius of the defence and of the attack](budget-matrix.png)", ""])


def _steps(runs: list[dict], defences: list[float], attack: str) -> list[str]:
    """Return the differences between the matching defence and its neighbours."""
    at, found = defences.index(float(attack)), []
    for other, word in ((at - 1, "next smaller"), (at + 1, "next larger")):
        if 0 <= other < len(defences):
            pairs = zip(values(runs, defences[other], attack), values(runs, defences[at], attack), strict=True)
            found.append(
                f"{word} defence {text_of([one - matching for one, matching in pairs], sign=True)} against the equal one"
            )
    return found


def _best(runs: list[dict], defences: list[float], attack: str) -> str:
    means = {defence: np.mean(values(runs, defence, attack)) for defence in defences}
    best = max(means, key=means.get)
    if means[best] == 0:
        return "No defence withstands it."
    how = "smaller than" if best < float(attack) else "larger than" if best > float(attack) else "equal to"
    return f"The best of these defences, {best:g}, is {how} the attack."


def draw(figure: Figure, runs: list[dict]) -> None:
    """Mean success by radius of the defence (rows) and of the attack (columns)."""
    axes, attacks = figure.add_subplot(), ["nominal", *runs[0]["attacked"]]
    defences = sorted({run["defence"] for run in runs})
    means = [[np.mean(values(runs, defence, attack)) for attack in attacks] for defence in defences]
    image = axes.imshow(means, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    for i, row in enumerate(means):
        for j, mean in enumerate(row):
            axes.text(j, i, f"{mean:.0f}", ha="center", va="center", color="white" if mean < 55 else "black")
    axes.set(xlabel="radius of the attack", ylabel="radius of the defence")
    axes.set_xticks(range(len(attacks)), ["none", *attacks[1:]])
    axes.set_yticks(range(len(defences)), ["none", *(f"{defence:g}" for defence in defences[1:])])
    figure.colorbar(image, label="success (% of examples)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "budget-matrix", help="folder of the agents")
    parser.add_argument("--radii", type=float, nargs="+", default=list(RADII), help="of defences and attacks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=128, help="observations per seed (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, help="of training, instead of the recipe's")
    arguments = parser.parse_args()
    runs = measure(arguments)
    write_results(arguments.output / "budget-matrix", runs, page(runs, arguments.examples))
    (arguments.output / "budget-matrix.png").write_bytes(render(lambda figure: draw(figure, runs)))


if __name__ == "__main__":
    main()
