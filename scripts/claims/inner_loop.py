"""
Is the inner maximisation stable, and does it find the maximum (Theorems 2 and 3)? Seen from the agent's side, an ascent that
stays far below the worst case of all attacks is masked gradients. And with the paper's own ascent, plain gradient steps of a
fixed size, training may oscillate, spike or fail.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from matplotlib.figure import Figure
from shared.tables import ENOUGH_SEEDS, markdown_table, text_of

from aajr_hf.evaluation.reporting.plots import panels

from .cells import Agent, Cell, saved_every
from .methods import METHODS
from .page import cells_of, number_of, verdict, where
from .preset import Preset

TITLE = "Stability of the inner loop (Theorems 2 and 3)"
REFERENCE = "adversarial"
COMPARED = (REFERENCE, "adversarial, dropout", "AAJR", "AAJR, amortised", "global spectral", "random direction")
# What training itself maximises, in as many steps, and everything that `aajr evaluate` tries.
OWN, ALL = "own ascent", "all attacks"
PLAIN = "plain steps"
# Ten ascent steps are dear: fewer methods train with them, and for a third of the optimizer steps.
WITH_PLAIN = (REFERENCE, "AAJR", "global spectral")


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    methods = [name for name in COMPARED if name in preset.methods and name in chosen]
    found = []
    for steps in preset.steps_of_ascent:
        for seed in preset.seeds[:ENOUGH_SEEDS]:
            agents = _over_training(methods, chosen, steps, preset.pressure[0][1], preset.steps)
            own = ("--attacks", "nll", "--attack_steps", str(steps))
            for said, options in ((OWN, own), (ALL, ())):
                key, same = f"{said}, K = {steps}, seed {seed}", ("--multiples", "1")
                facts = {"part": said, "ascent_steps": steps}
                found.append(Cell(key, agents, seed, preset.steps, preset.examples, (*same, *options), facts=facts))
    for seed in preset.seeds[:ENOUGH_SEEDS]:
        plain = _plain([name for name in methods if name in WITH_PLAIN], chosen, preset.step_sizes)
        steps = saved_every(preset.steps)
        same = (seed, steps, preset.examples, ("--multiples", "1"))
        found.append(Cell(f"{PLAIN}, seed {seed}", plain, *same, facts={"part": PLAIN}))
    return found


def counts_failure(run: dict) -> bool:
    """Whether the section counts failed trainings of this kind; the page leaves others out."""
    return run["part"] == PLAIN


def _over_training(
    methods: list[str], chosen: Mapping[str, float], ascent: int, rows: int, last: int
) -> dict[str, Agent]:
    """Return the agents after each third of training, by method and optimizer step."""
    agents = {}
    for method in methods:
        agent = METHODS[method].under_pressure(chosen[method], ascent, rows)
        for some in (*agent.checkpoints(last), agent):
            step = some.checkpoint or last
            agents[f"{method} @ {step}"] = some.known_by(method=method, step=step)
    return agents


def _plain(methods: list[str], chosen: Mapping[str, float], sizes: tuple[float, ...]) -> dict[str, Agent]:
    """Return agents that train with ten plain gradient steps of a fixed size eta (equation 11), or of one that is found."""
    agents = {}
    for method in methods:
        for size in (*sizes, "auto"):
            # Every step is logged, so that the gradient's norm is known step by step.
            fields = {"ascent_step_rule": "gradient", "ascent_step_size": size, "ascent_steps": 10, "logging_steps": 1}
            agent = METHODS[method].agent(chosen[method], **fields)
            agents[f"{method} @ {size}"] = agent.known_by(method=method, eta=size)
    return agents


def section(runs: list[dict]) -> list[str]:
    lines = [
        "*left by its own ascent*: success left by K steps of projected gradient ascent on the agent's own loss. *left by "
        "all*: by all attacks. The gap is what such an ascent does not see; both in percent, at 1x. An agent that its own "
        "ascent breaks has a small gap, too.",
        "",
    ]
    for steps in cells_of(where(runs, part=ALL), "ascent_steps"):
        pair = {said: where(runs, part=said, ascent_steps=steps) for said in (OWN, ALL)}
        lines += [f"**K = {steps}**", "", *_gaps(pair), "", *_gap_verdicts(pair), ""]
    if plain := where(runs, part=PLAIN):
        lines += [
            f"**Training with {PLAIN} of size eta, K = 10, a third of the optimizer steps**",
            "",
            *_plain_table(plain),
        ]
    return lines


def _gaps(pair: dict[str, list[dict]]) -> list[str]:
    rows = []
    for agent in cells_of(pair[ALL], "agent"):
        first = where(pair[ALL], agent=agent)[0]
        left = [[number_of("1")(run) for run in where(pair[said], agent=agent)] for said in (OWN, ALL)]
        gap = text_of(list(_gap(pair, agent).values()))
        rows.append([first["method"], str(first["step"]), *map(text_of, left), gap])
    return markdown_table(["method", "step", "left by its own ascent", "left by all", "gap"], rows)


def _gap(pair: dict[str, list[dict]], agent: str) -> dict[int, float]:
    """Return the gap of each seed that both cells measured."""
    own, all_ = ({run["seed"]: number_of("1")(run) for run in where(pair[said], agent=agent)} for said in (OWN, ALL))
    return {seed: own[seed] - all_[seed] for seed in own if seed in all_}


def _gap_verdicts(pair: dict[str, list[dict]]) -> list[str]:
    """Whether the gap at the end of training is above zero, and whether it is smaller than adversarial training's."""
    last = max(run["step"] for run in pair[ALL])
    at_end = {run["method"]: run["agent"] for run in pair[ALL] if run["step"] == last}
    gaps = {method: _gap(pair, agent) for method, agent in at_end.items()}
    lines = [f"- {method} leaves a gap: {verdict(list(gap.values()))}." for method, gap in gaps.items()]
    reference = gaps.pop(REFERENCE, {})
    for method, gap in gaps.items():
        gains = [reference[seed] - gap[seed] for seed in gap if seed in reference]
        lines.append(f"- {method} leaves a smaller gap than adversarial training: {verdict(gains)}.")
    return lines


def _plain_table(runs: list[dict]) -> list[str]:
    rows = []
    for agent in cells_of(runs, "agent"):
        mine = where(runs, agent=agent)
        done = [run for run in mine if not run.get("diverged")]
        cells = [f"{len(mine) - len(done)} of {len(mine)}"]
        for name, digits in (("monotone_fraction", 2), ("gradient_norm", 2), ("gradient_variation", 2), ("spike", 1)):
            cells.append(text_of([run[name] for run in done if name in run], digits))
        cells += [text_of([number_of(name)(run) for run in done]) for name in ("nominal", "1")]
        rows.append([mine[0]["method"], str(mine[0]["eta"]), *cells])
    header = ["method", "eta", "failed", "monotone steps", "gradient norm", "its deviation / mean", "largest / median"]
    return markdown_table([*header, "nominal", "1x"], rows)


def draw(figure: Figure, runs: list[dict]) -> None:
    """What an ascent of as many steps on training's loss leaves and what all attacks leave, over training, for the smallest and the largest K."""
    measured = sorted({run["ascent_steps"] for run in runs if run["part"] != PLAIN})
    if not measured:
        return
    shown = tuple(dict.fromkeys((measured[0], measured[-1])))
    for axes, steps in zip(panels(figure, tuple(f"K = {steps}" for steps in shown)), shown, strict=True):
        for said, line in ((OWN, "--"), (ALL, "-")):
            here = where(runs, part=said, ascent_steps=steps)
            for color, method in enumerate(cells_of(here, "method")):
                mine = where(here, method=method)
                at = sorted(cells_of(mine, "step"))
                means = [statistics.mean(number_of("1")(run) for run in where(mine, step=step)) for step in at]
                label = f"{method}, {said}"
                axes.plot(at, means, line, color=f"C{color}", marker="o", markersize=3, label=label)
        axes.set(xlabel="optimizer step", ylabel="success left at 1x, %", ylim=(-2, 102))
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize="small"
    )
