"""
Measure the attacks along directions that are learnt on other prompts: `universal` and `predicted`.

    aajr init-agent outputs/agent
    aajr train --config recipes/congestion/adversarial.yaml
    python scripts/learnt_attacks.py base=outputs/agent adversarial=outputs/congestion-adversarial --output docs/results

Both learn from training rows and are tried on held-out rows of the agents' world. The script writes universal.md, .png and
.json (success left by one perturbation for all prompts over the radius, and the energy of the ascent directions by rank)
and predicted.md, .png and .json (success against seconds, and agreement with the true gradients by the number of rows of
the fit). With 128 rows of each kind, it takes about three minutes for each agent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from aajr_hf.environments import expert_rows, held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks.ascent import Ascent
from aajr_hf.evaluation.attacks.lessons import LOSS, Lessons
from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.attacks.universal import STEPS, UniversalPerturbation, learn_universal
from aajr_hf.evaluation.attacks.without_gradients import RandomPoints
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.reporting.results import interval_text, percent_text
from aajr_hf.evaluation.reporting.statistics import paired_difference, wilson
from aajr_hf.evaluation.robustness.screening import agreement_on, fit_predictor, screen
from aajr_hf.training.policy.policy import frozen_parameters

MULTIPLES = (0.5, 0.75, 1.0, 2.0)
UNIVERSAL = ("mean gradient", "universal")
RANDOM = "random universal"
SHOWN = ("random", RANDOM, *UNIVERSAL, "one step", "PGA")
FITTED = (16, 32, 64, 128, 256)


def measure(model, tokenizer, world: str, rows: int) -> dict:
    """Return all numbers of one agent."""
    threat = ThreatModel()

    def target(some):
        return Target(model, read_batch(tokenizer, some, threat.perturbed_tokens, model.device), threat)

    known, held_out = expert_rows(world, max(rows, FITTED[-1]), seed=0), held_out_rows(world, rows, seed=0)
    # One row of each moment, as the held-out rows are: the rows of one moment are alike.
    apart = held_out_rows(world, rows, seed=1)
    with frozen_parameters(model):
        lesson, tried = target(apart), target(held_out)
        more = {"random, 1 point": RandomPoints(1), "random, 16 points": RandomPoints(16)} | {
            "PGA, 3 steps": three_steps
        }
        by_rows = {}
        for number in (count for count in FITTED if count <= len(known)):
            predictor = fit_predictor([target(known[:number])])
            agreed = agreement_on(predictor, [tried])
            by_rows[number] = {"cosine": agreed.cosine, "signs": 100 * agreed.signs}
        found = {}
        for multiple in MULTIPLES:
            attacks = {name: along(each) for name, each in learn(lesson, multiple).items()}
            how = {"multiple": multiple, "attacks": attacks | more, "clock": time.process_time}
            screened = screen([tried], predictor, gradients=True, **how)
            found[f"{multiple:g}"] = {
                name: {"outcomes": [int(outcome) for outcome in each.outcomes], "seconds": each.seconds}
                for name, each in screened.items()
            }
        lessons = Lessons(lambda numbers: target([held_out[n] for n in numbers]), rows, rows, ())
    return {"attacks": found, "energy": lessons.energy, "dimensions": lessons.dimensions, "agreement": by_rows}


def learn(lesson: Target, multiple: float) -> dict[str, UniversalPerturbation]:
    """Return perturbations for all prompts, learnt for this radius."""
    steps = zip(UNIVERSAL, (1, STEPS), strict=True)
    learnt = {name: learn_universal([lesson], LOSS, number, multiple) for name, number in steps}
    return learnt | {RANDOM: best_of_random(lesson, 2 * (STEPS + 1), multiple)}


def along(perturbation: UniversalPerturbation):
    return lambda search: search.visit(search.to_corner(perturbation.on(search.target)), search.all_rows)


def three_steps(search: Search) -> None:
    search.steps = 3
    Ascent("", LOSS)(search)


@torch.no_grad()
def best_of_random(target: Target, trials: int, multiple: float) -> UniversalPerturbation:
    """Return the random perturbation with the largest mean loss: as many forward passes as the ascent costs, about."""
    search, best, most = Search(target, target.ball(multiple), [0] * len(target.batch), steps=1), None, float("-inf")
    length = int(target.batch.perturbable.sum(dim=1).max())
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        drawn = torch.randn(length, target.origin.shape[-1], generator=generator).to(target.origin)
        candidate = UniversalPerturbation((length,), (drawn,))
        delta = search.to_corner(candidate.on(target))
        value = float(LOSSES[LOSS](target.policy(delta), target.batch).mean())
        if value > most:
            best, most = candidate, value
    return best


def share(attack: dict) -> str:
    """Return the success of an attack with its interval."""
    outcomes = attack["outcomes"]
    success = 100 * sum(outcomes) / len(outcomes)
    return f"{percent_text(success)} {interval_text(wilson(success, len(outcomes)))}"


def explained(by_attack: dict) -> str:
    """Return of the examples that PGA or the universal perturbation breaks, those that the latter breaks."""
    own, universal, nominal = (by_attack[name]["outcomes"] for name in ("PGA", "universal", "none"))
    broken = [u for o, u, n in zip(own, universal, nominal, strict=True) if n and not (o and u)]
    if not broken:
        return "-"
    part = 100 * (1 - sum(broken) / len(broken))
    return f"{percent_text(part)} {interval_text(wilson(part, len(broken)))}"


def universal_page(results: dict) -> str:
    """Return the page of the attack `universal`."""
    size = results["rows"]
    lines = [
        "# One perturbation for all prompts",
        "",
        f"`scripts/learnt_attacks.py` makes this page. A perturbation of the embeddings, the same for all prompts, is learnt on "
        f"{size} rows and tried on {size} others of the world, for each radius by itself. The radius is a multiple of 0.25 times the prompt's mean "
        "embedding norm. Success left in percent [95 %], each attack on its own. *random universal* is the best of "
        f"{2 * (STEPS + 1)} random directions on the rows of the fit, which costs about as much as the ascent's {STEPS + 1} "
        "gradients. *explained*: of the examples that PGA or the universal perturbation breaks, those that the universal "
        "perturbation breaks.",
        "",
    ]
    for name, agent in results["agents"].items():
        lines += [
            f"## {name}",
            "",
            "| radius | " + " | ".join(SHOWN) + " | explained |",
            "|---" * (len(SHOWN) + 2) + "|",
        ]
        for multiple, attacks in agent["attacks"].items():
            cells = " | ".join(share(attacks[attack]) for attack in SHOWN)
            lines.append(f"| {multiple}x | {cells} | {explained(attacks)} |")
        lines += ["", *_universal_sentences(agent), ""]
    lines += ["![success by radius, and energy by rank](universal.png)", ""]
    return "\n".join(lines)


def _universal_sentences(agent: dict) -> list[str]:
    energy, dims = agent["energy"], agent["dimensions"]
    held = ", ".join(f"{rank} hold {energy[rank]:.0f} %" for rank in energy if int(rank) in (1, 8, 32))
    sentences = [
        f"Of {dims} dimensions, the first principal directions of other prompts' ascents hold this much of the energy of a "
        f"prompt's own ascent directions (three steps): {held}; 32 random directions would hold {3200 / dims:.1f} %.",
        "",
    ]
    no_gain = "No gain over random directions is seen"
    return sentences + _differences(agent, "universal", (RANDOM, "one step"), RANDOM, no_gain)


def _differences(agent: dict, attack: str, others: tuple[str, ...], random: str, no_gain: str) -> list[str]:
    """Return sentences that compare an attack with others; `no_gain` where it is no better than random ones beyond chance."""
    sentences = []
    for multiple, attacks in agent["attacks"].items():
        for other in others:
            difference = paired_difference(attacks[attack]["outcomes"], attacks[other]["outcomes"])
            unseen = f" {no_gain} at this radius." if other == random and difference.sign >= 0 else ""
            sentences.append(
                f"- At {multiple}x, {attack} leaves {difference.points:+.1f} points of success against {other} "
                f"{difference.chance_text()}.{unseen}"
            )
    return sentences


def predicted_page(results: dict) -> str:
    """Return the page of the attack `predicted`."""
    size = results["rows"]
    lines = [
        "# Gradients predicted from forward passes",
        "",
        f"`scripts/learnt_attacks.py` makes this page. A kernel ridge regression predicts the gradient in the embeddings from the "
        f"last hidden states and the error of the output. Fitted to training rows, tried on {size} held-out rows; one step to "
        "the boundary of the ball. Success left in percent [95 %] with seconds of CPU time on one core for all rows, each "
        "attack on its own. Random points and predicted gradients need forward passes only; the fit itself needs gradients once.",
        "",
    ]
    for name, agent in results["agents"].items():
        names = [n for n in agent["attacks"]["1"] if n not in (*UNIVERSAL, RANDOM, "none")]
        lines += [f"## {name}", "", "| radius | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for multiple, attacks in agent["attacks"].items():
            cells = " | ".join(f"{share(attacks[n])}, {attacks[n]['seconds']:.2f} s" for n in names)
            lines.append(f"| {multiple}x | {cells} |")
        lines += ["", "| rows of the fit | cosine | equal signs % |", "|---|---|---|"]
        lines += [f"| {n} | {a['cosine']:.2f} | {a['signs']:.1f} |" for n, a in agent["agreement"].items()]
        lines.append("")
        random, no_gain = "random, 16 points", "No gain over random points is seen"
        lines += _differences(agent, "predicted", ("one step", random), random, no_gain)
        lines.append("")
    lines += ["![success against seconds](predicted.png)", ""]
    return "\n".join(lines)


def universal_plot(results: dict, file: Path) -> None:
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for style, (name, agent) in zip(("-", "--", ":"), results["agents"].items(), strict=False):
        for color, attack in zip(("0.6", "#CC79A7", "#D55E00", "#0072B2", "#000000"), SHOWN[1:], strict=True):
            heights = [sum(a[attack]["outcomes"]) / results["rows"] * 100 for a in agent["attacks"].values()]
            left.plot(MULTIPLES, heights, style, marker="o", markersize=4, color=color, label=f"{name}: {attack}")
        right.plot(
            [int(r) for r in agent["energy"]],
            list(agent["energy"].values()),
            style,
            marker="o",
            color="#0072B2",
            label=name,
        )
    left.set(xlabel="radius (multiples of 0.25)", ylabel="success left (%)", ylim=(-3, 103))
    left.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    right.set(
        xlabel="principal directions of other prompts", ylabel="energy of the ascent directions (%)", ylim=(0, 103)
    )
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.legend(frameon=False)
    figure.savefig(file, dpi=150)


def predicted_plot(results: dict, file: Path) -> None:
    agents = results["agents"]
    figure = Figure(figsize=(4.8 * len(agents), 4.4), layout="constrained")
    panels = figure.subplots(1, len(agents), squeeze=False)[0]
    for axes, (name, agent) in zip(panels, agents.items(), strict=True):
        handles = {}
        for marker, multiple in zip("so", ("0.5", "1"), strict=True):
            attacks = {n: a for n, a in agent["attacks"][multiple].items() if n not in (*UNIVERSAL, RANDOM, "none")}
            for color, (attack, numbers) in enumerate(attacks.items()):
                height = 100 * sum(numbers["outcomes"]) / results["rows"]
                (handles[attack],) = axes.plot(numbers["seconds"], height, marker, color=f"C{color}", label=attack)
        axes.set(xscale="log", xlabel="seconds of CPU time", ylabel="success left (%)", ylim=(-3, 103))
        axes.set_title(f"{name} (squares: 0.5x, circles: 1x)", fontsize="medium")
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)


def part(results: dict, name: str) -> dict:
    """Return the numbers that one of the pages shows."""
    own = {"universal": ("energy", "dimensions"), "predicted": ("agreement",)}[name]
    hidden = (*UNIVERSAL, RANDOM) if name == "predicted" else ("predicted", "random, 1 point", "random, 16 points")
    agents = {
        agent: {field: numbers[field] for field in own}
        | {"attacks": {m: {n: a for n, a in by.items() if n not in hidden} for m, by in numbers["attacks"].items()}}
        for agent, numbers in results["agents"].items()
    }
    return {"rows": results["rows"], "agents": agents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=DIR", help="folders of agents of built-in worlds")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=128, help="rows to learn from, and rows to try (default: 128)")
    arguments = parser.parse_args()
    folders = {name: Path(path) for name, _, path in (model.partition("=") for model in arguments.models)}
    missing = [folder for folder in folders.values() if not (folder / "config.json").is_file()]
    if missing:
        print(f"error: there is no agent in {missing[0]}: make one with `aajr init-agent`", file=sys.stderr)
        sys.exit(2)
    results = {"rows": arguments.rows, "agents": {}}
    for name, folder in folders.items():
        model, tokenizer = load_agent(str(folder))
        world = getattr(model.config, "aajr_environment", "congestion")
        results["agents"][name] = measure(model, tokenizer, world, arguments.rows)
        print(f"{name} is measured", file=sys.stderr)
    # As it will be read again: the keys are texts.
    results = json.loads(json.dumps(results))
    arguments.output.mkdir(parents=True, exist_ok=True)
    write = {"universal": (universal_page, universal_plot), "predicted": (predicted_page, predicted_plot)}
    for name, (page, plot) in write.items():
        (arguments.output / f"{name}.md").write_text(page(results))
        plot(results, arguments.output / f"{name}.png")
        (arguments.output / f"{name}.json").write_text(json.dumps(part(results, name)) + "\n")
        print(page(results))


if __name__ == "__main__":
    main()
