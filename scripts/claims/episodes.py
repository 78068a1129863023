"""
Whole episodes under shock and attack, in three worlds, over several base agents a world: ten agents read, answer, and change what
all of them read next. A public digest of the paper quotes hide-and-seek with ten agents: 62 % success without a penalty, 68 %
with a global Jacobian penalty, 78 % with AAJR, over 70 % up to a radius of 0.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from shared.commands import ROOT, run_command
from shared.tables import markdown_table, text_of

from aajr_hf.environments import WORLDS

from .cells import Agent, digest_of
from .methods import METHODS
from .page import by_seed, cells_of, verdict, where
from .preset import Preset

TITLE = "Episodes under shock and attack, and the digest's figures"
BASE, REFERENCE = "base", "adversarial"
COMPARED = ("sft", REFERENCE, "adversarial, dropout", "AAJR, amortised", "global spectral", "random direction")
# World -> shock and its magnitude.
SHOCKS = {"congestion": ("capacity_drop", 6), "commons": ("greedy_newcomer", 3), "hide_and_seek": ("faster_seeker", 1)}
CALM, SHOCK = "calm", "shock"
# The largest radius of the digest, and the radius of training.
RADII = (0.2, 0.25)
# Condition -> further options of `aajr simulate`.
CONDITIONS: dict[str, tuple[str, ...]] = {CALM: (), SHOCK: ()} | {
    f"shock, attack {radius:g}": ("--attack", "warm_nll", "--attack_steps", "5", "--epsilon", f"{radius:g}")
    for radius in RADII
}
HARDEST = list(CONDITIONS)[-1]


@dataclass(frozen=True)
class EpisodeCell:
    """
    Agents of one world that are fine-tuned from one base agent; as [`claims.cells.Cell`]. `seed` is the base agent's: 0 is
    the stored one.
    """

    key: str
    world: str
    agents: dict[str, Agent]
    seed: int
    steps: int
    episodes: int

    def settings(self) -> str:
        agents = {name: agent.settings() for name, agent in self.agents.items()}
        return digest_of([self.world, agents, self.seed, self.steps, self.episodes, SHOCKS[self.world], CONDITIONS])

    def measure(self, claim: str, work: Path) -> list[dict]:
        base = self._base(work)
        told = {"model_name_or_path": str(base), "environment": self.world, "environment_seed": 1 + self.seed}
        folders: dict[str, Path | None] = {BASE: base}
        for name, agent in self.agents.items():
            folders[name] = Agent(agent.recipe, agent.fields | told).train(self.seed, self.steps, work)
        same = {"claim": claim, "cell": self.key, "seed": self.seed, "settings": self.settings(), "world": self.world}
        runs = []
        for name, folder in folders.items():
            numbers: dict[str, Any] = {"diverged": True}
            if folder is not None:
                numbers = {"success": {said: self._play(folder, said, work / claim) for said in CONDITIONS}}
            runs.append(same | {"agent": name} | numbers)
        return runs

    def _base(self, work: Path) -> Path:
        if self.seed == 0:
            return ROOT / "docs" / "results" / "agents" / self.world
        folder = work / f"base-{self.world}-{self.seed}"
        if not (folder / "config.json").is_file():
            run_command(["init-agent", str(folder), "--environment", self.world, "--seed", str(self.seed)], folder)
        return folder

    def _play(self, folder: Path, said: str, work: Path) -> float:
        """Return the mean success of the world over episodes, in percent."""
        shock, magnitude = SHOCKS[self.world]
        options = ["--episodes", str(self.episodes), "--seed", str(100 + self.seed), *CONDITIONS[said]]
        options += [] if said == CALM else ["--shock", shock, "--magnitude", str(magnitude)]
        output = work / f"{self.world}-{folder.name}-{digest_of(options)}"
        if not (output / "episodes.jsonl").is_file():
            command = ["simulate", "--env", self.world, "--model", str(folder), *options, "--output", str(output)]
            run_command(command, output)
        records = [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]
        return 100 * sum(record["metrics"][WORLDS[self.world].success] for record in records) / len(records)


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[EpisodeCell]:
    """One cell for each world and base agent, with the settings that were chosen in congestion."""
    methods = [name for name in COMPARED if name in preset.methods and name in chosen]
    return [
        EpisodeCell(
            f"{world}, base {base}",
            world,
            {name: METHODS[name].agent(chosen[name]) for name in methods},
            base,
            preset.steps,
            preset.episodes,
        )
        for base in preset.bases
        for world in preset.worlds
    ]


def section(runs: list[dict]) -> list[str]:
    lines = [
        "Success in percent, as docs/worlds.md defines it: "
        + ", ".join(f"`{WORLDS[world].success}` in {world}" for world in cells_of(runs, "world"))
        + "; means over base agents. The attack moves the embeddings of every prompt, five steps along the agent's own gradient: "
        "it is weak against an agent that hides its gradient.",
    ]
    for world in cells_of(runs, "world"):
        here = where(runs, world=world)
        lines += ["", f"**{world}**, shock: {SHOCKS[world][0]}", "", *_table(here), ""]
        for agent in cells_of(here, "agent"):
            if agent not in (BASE, REFERENCE):
                gains = by_seed(
                    where(here, agent=agent), where(here, agent=REFERENCE), lambda run: run["success"][HARDEST]
                )
                lines.append(f"- {agent} keeps more success than adversarial training ({HARDEST}): {verdict(gains)}.")
        if world == "hide_and_seek":
            lines += ["", *_digest(here)]
    return lines


def _table(runs: list[dict]) -> list[str]:
    rows = [
        [agent, *(text_of([run["success"][said] for run in where(runs, agent=agent)]) for said in CONDITIONS)]
        for agent in cells_of(runs, "agent")
    ]
    return markdown_table(["agent", *CONDITIONS], rows)


def _digest(runs: list[dict]) -> list[str]:
    """The digest's figures beside what is seen here, with the shock."""
    rows = []
    for said, figure, agent, condition in (
        ("without a penalty", "62", "sft", SHOCK),
        ("global Jacobian penalty", "68", "global spectral", SHOCK),
        ("AAJR", "78", "AAJR, amortised", SHOCK),
        ("AAJR, up to 0.2", "over 70", "AAJR, amortised", f"shock, attack {RADII[0]:g}"),
    ):
        seen = where(runs, agent=agent)
        rows.append([said, figure, text_of([run["success"][condition] for run in seen])])
    return markdown_table(["the digest's figures", "digest, %", "here, %"], rows)


def draw(figure: Figure, runs: list[dict]) -> None:
    """Success of each base agent's fine-tunings under each condition, a panel for each world."""
    worlds = cells_of(runs, "world")
    for axes, world in zip(figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0], worlds, strict=True):
        here = where(runs, world=world)
        for i, agent in enumerate(agents := cells_of(here, "agent")):
            mine = where(here, agent=agent)
            shift = 0.6 * (i / max(len(agents) - 1, 1) - 0.5)
            places = [place + shift for place in range(len(CONDITIONS)) for _ in mine]
            values = [run["success"][said] for said in CONDITIONS for run in mine]
            axes.plot(places, values, "o", markersize=4, label=agent)
        axes.set(title=world, ylim=(-2, 102))
        axes.set_xticks(range(len(CONDITIONS)), [said.replace(", ", ",\n") for said in CONDITIONS], fontsize="x-small")
    figure.supylabel("success, %", fontsize="medium")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
