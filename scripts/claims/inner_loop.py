"""
Is the inner maximisation stable, and does it find the maximum (Theorems 2 and 3)? Seen from the agent's side, an ascent that
stays far below the worst case of all attacks is masked gradients. And with the paper's own ascent, plain gradient steps of a
fixed size, training may oscillate, spike or fail.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from shared.tables import ENOUGH_SEEDS, markdown_table, text_of

from aajr_hf.evaluation.reporting.plots import panels

from .cells import Agent, Cell, saved_every
from .methods import METHODS
from .page import cells_of, number_of, of_agent, verdict
from .preset import Preset

TITLE = "Stability of the inner loop (Theorems 2 and 3)"
REFERENCE = "adversarial"
COMPARED = (REFERENCE, "adversarial, dropout", "AAJR", "AAJR, amortised", "global spectral", "random direction")
# What training itself maximises, in as many steps, and everything that `aajr evaluate` tries.
OWN, ALL = "own ascent", "all attacks"
PLAIN = "plain steps"
# Ten ascent steps are dear: fewer methods train with them, and for a third of the optimizer steps.
WITH_PLAIN = (REFERENCE, "AAJR", "global spectral")
# Cells whose failed trainings the section counts; of other cells, the page leaves them out.
COUNTS_FAILURES = PLAIN


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    methods = [name for name in COMPARED if name in preset.methods and name in chosen]
    found = []
    for steps in preset.steps_of_ascent:
        for seed in preset.seeds[:ENOUGH_SEEDS]:
            agents = _over_training(methods, chosen, steps, preset.pressure[0][1], preset.steps)
            own = ("--attacks", "nll", "--attack_steps", str(steps))
            for said, options in ((OWN, own), (ALL, ())):
                key, same = f"{said}, K = {steps}, seed {seed}", ("--multiples", "1")
                found.append(Cell(key, agents, seed, preset.steps, preset.examples, (*same, *options)))
    for seed in preset.seeds[:ENOUGH_SEEDS]:
        plain = _plain([name for name in methods if name in WITH_PLAIN], chosen, preset.step_sizes)
        steps = saved_every(preset.steps)
        found.append(Cell(f"{PLAIN}, seed {seed}", plain, seed, steps, preset.examples, ("--multiples", "1")))
    return found


def _over_training(
    methods: list[str], chosen: Mapping[str, float], ascent: int, rows: int, last: int
) -> dict[str, Agent]:
    """Return the agents after each third of training, by method and optimizer step."""
    agents = {}
    for method in methods:
        agent = METHODS[method].under_pressure(chosen[method], ascent, rows)
        agents |= {f"{method} @ {earlier.checkpoint}": earlier for earlier in agent.checkpoints(last)}
        agents[f"{method} @ {last}"] = agent
    return agents


def _plain(methods: list[str], chosen: Mapping[str, float], sizes: tuple[float, ...]) -> dict[str, Agent]:
    """Return agents that train with ten plain gradient steps of a fixed size eta (equation 11), or of one that is found."""
    agents = {}
    for method in methods:
        for size in (*sizes, "auto"):
            # Every step is logged, so that the gradient's norm is known step by step.
            fields = {"ascent_step_rule": "gradient", "ascent_step_size": size, "ascent_steps": 10, "logging_steps": 1}
            agents[f"{method} @ {size}"] = METHODS[method].agent(chosen[method], **fields)
    return agents


def section(runs: list[dict]) -> list[str]:
    lines = [
        "*left by its own ascent*: success left by K steps of projected gradient ascent on the agent's own loss. *left by "
        "all*: by all attacks. The gap is what such an ascent does not see; both in percent, at 1x. An agent that its own "
        "ascent breaks has a small gap, too.",
        "",
    ]
    for key in dict.fromkeys(run["cell"].partition(", ")[2].rpartition(", ")[0] for run in runs if _is(run, ALL)):
        pair = {said: [run for run in runs if run["cell"].startswith(f"{said}, {key},")] for said in (OWN, ALL)}
        lines += [f"**{key}**", "", *_gaps(pair), "", *_gap_verdicts(pair), ""]
    plain = [run for run in runs if _is(run, PLAIN)]
    if plain:
        lines += [
            f"**Training with {PLAIN} of size eta, K = 10, a third of the optimizer steps**",
            "",
            *_plain_table(plain),
        ]
    return lines


def _gaps(pair: dict[str, list[dict]]) -> list[str]:
    rows = []
    for agent in cells_of(pair[ALL], "agent"):
        method, _, step = agent.partition(" @ ")
        left = [[number_of("1")(run) for run in of_agent(pair[said], agent)] for said in (OWN, ALL)]
        rows.append([method, step, *map(text_of, left), text_of(list(_gap(pair, agent).values()))])
    return markdown_table(["method", "step", "left by its own ascent", "left by all", "gap"], rows)


def _gap(pair: dict[str, list[dict]], agent: str) -> dict[int, float]:
    """Return the gap of each seed that both cells measured."""
    own, all_ = ({run["seed"]: number_of("1")(run) for run in of_agent(pair[said], agent)} for said in (OWN, ALL))
    return {seed: own[seed] - all_[seed] for seed in own if seed in all_}


def _gap_verdicts(pair: dict[str, list[dict]]) -> list[str]:
    """Whether the gap at the end of training is above zero, and whether it is smaller than adversarial training's."""
    agents = cells_of(pair[ALL], "agent")
    last = max(int(agent.partition(" @ ")[2]) for agent in agents)
    gaps = {agent.partition(" @ ")[0]: _gap(pair, agent) for agent in agents if agent.endswith(f" @ {last}")}
    lines = [f"- {method} leaves a gap: {verdict(list(gap.values()))}." for method, gap in gaps.items()]
    reference = gaps.pop(REFERENCE, {})
    for method, gap in gaps.items():
        gains = [reference[seed] - gap[seed] for seed in gap if seed in reference]
        lines.append(f"- {method} leaves a smaller gap than adversarial training: {verdict(gains)}.")
    return lines


def _plain_table(runs: list[dict]) -> list[str]:
    rows = []
    for agent in cells_of(runs, "agent"):
        method, _, size = agent.partition(" @ ")
        mine = of_agent(runs, agent)
        done = [run for run in mine if not run.get("diverged")]
        cells = [f"{len(mine) - len(done)} of {len(mine)}"]
        for name, digits in (("monotone_fraction", 2), ("gradient_norm", 2), ("gradient_variation", 2), ("spike", 1)):
            cells.append(text_of([run[name] for run in done if name in run], digits))
        cells += [text_of([number_of(name)(run) for run in done]) for name in ("nominal", "1")]
        rows.append([method, size, *cells])
    header = ["method", "eta", "failed", "monotone steps", "gradient norm", "its deviation / mean", "largest / median"]
    return markdown_table([*header, "nominal", "1x"], rows)


def draw(figure: Figure, runs: list[dict]) -> None:
    """What an ascent of as many steps on training's loss leaves and what all attacks leave, over training, for the smallest and the largest K."""
    measured = [run for run in runs if not _is(run, PLAIN)]
    keys = sorted({run["cell"].split(", ")[1] for run in measured}, key=lambda key: int(key.rpartition(" ")[2]))
    if not keys:
        return
    shown = tuple(dict.fromkeys((keys[0], keys[-1])))
    for axes, key in zip(panels(figure, shown), shown, strict=True):
        for said, line in ((OWN, "--"), (ALL, "-")):
            here = [run for run in measured if run["cell"].startswith(f"{said}, {key},")]
            for color, method in enumerate(
                dict.fromkeys(agent.partition(" @ ")[0] for agent in cells_of(here, "agent"))
            ):
                mine = [run for run in here if run["agent"].startswith(f"{method} @ ")]
                at = sorted({int(run["agent"].partition(" @ ")[2]) for run in mine})
                some = [[number_of("1")(run) for run in of_agent(mine, f"{method} @ {step}")] for step in at]
                means = [sum(values) / len(values) for values in some]
                label = f"{method}, {said}"
                axes.plot(at, means, line, color=f"C{color}", marker="o", markersize=3, label=label)
        axes.set(xlabel="optimizer step", ylabel="success left at 1x, %", ylim=(-2, 102))
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize="small"
    )


def _is(run: dict, said: str) -> bool:
    return run["cell"].startswith(f"{said}, ")
