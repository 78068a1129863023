"""Cells of the study: agents of one seed that are trained and attacked together."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import threading
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from shared.commands import ROOT, evaluate_once, run_command, train_once

from aajr_hf import AAJRConfig
from aajr_hf.evaluation.comparison.runs import gradient_norms

RECIPES = ROOT / "recipes" / "congestion"
# The numbers of an agent that the sections read.
KEPT = (
    *("nominal_success", "sampled_success", "worst_case_success", "sampled_worst_case_success"),
    *("amplification", "spectral_norm", "train_seconds"),
)
_LOCKS: dict[Path, threading.Lock] = {}


def saved_every(steps: int) -> int:
    """Return after how many optimizer steps a training of so many is saved: after each third."""
    return math.ceil(steps / 3)


def lock_of(folder: Path) -> threading.Lock:
    """Return the lock of a folder, because cells that run at once may need the same agent."""
    return _LOCKS.setdefault(folder, threading.Lock())


@dataclass(frozen=True)
class Agent:
    """
    An agent to train.

    Attributes:
        recipe: Recipe of recipes/congestion.
        fields: Fields that are set instead of the recipe's.
        checkpoint: Optimizer step whose checkpoint is measured; None: the end of training.
        facts: What tells it from the other agents of its cell; its runs contain this.
    """

    recipe: str
    fields: dict[str, Any] = field(default_factory=dict)
    checkpoint: int | None = None
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    def settings(self) -> list:
        """Return what the agent depends on, except its seed, the code and the base agent."""
        return [self._recipe(), self.fields, self.checkpoint]

    def config(self) -> AAJRConfig:
        """Return the configuration of its training."""
        told = self._recipe() | {"bf16": False} | self.fields
        return AAJRConfig(**{item.name: told[item.name] for item in fields(AAJRConfig) if item.name in told})

    def _recipe(self) -> dict[str, Any]:
        return yaml.safe_load((RECIPES / f"{self.recipe}.yaml").read_text())

    def known_by(self, **facts: Any) -> Agent:
        """Return the agent with these facts, too."""
        return replace(self, facts=self.facts | facts)

    def after(self, step: int | None) -> Agent:
        """Return the agent at a checkpoint of its training."""
        return replace(self, checkpoint=step)

    def checkpoints(self, steps: int) -> tuple[Agent, ...]:
        """Return the agent at each checkpoint of a training of so many optimizer steps."""
        return tuple(self.after(step) for step in range(saved_every(steps), steps, saved_every(steps)))

    def train(self, seed: int, steps: int, work: Path) -> Path | None:
        """
        Train the agent, unless it is there, and return its folder; None if a number was not finite. Claims share agents with
        equal settings.
        """
        digest = digest_of([self._recipe(), self.fields, steps])
        saved = {"save_strategy": "steps", "save_steps": saved_every(steps), "save_only_model": "true"}
        folder = work / "agents" / f"{self.recipe.replace('/', '-')}-{digest}-{seed}"
        try:
            with lock_of(folder):
                train_once(folder, self.recipe, {"max_steps": steps} | saved | self.fields, seed, None)
        except SystemExit:
            if not any(folder.glob("_nonfinite-*")):
                raise
            return None
        return folder if self.checkpoint is None else folder / f"checkpoint-{self.checkpoint}"


@dataclass(frozen=True)
class Cell:
    """
    Agents of one seed that are trained and attacked together, each also with what was found on the others.

    Attributes:
        key: Name of the cell, unique in its claim.
        options: Further options of `aajr evaluate`.
        calibrated: Whether each agent gets its own temperature (`aajr calibrate`) and is sampled at it.
        sources: Further agents, which are not measured: what is found on them is tried on `agents`.
        facts: What tells it from the other cells of its claim, but for the seed; its runs contain this.
    """

    key: str
    agents: dict[str, Agent]
    seed: int
    steps: int
    examples: int
    options: tuple[str, ...] = ()
    calibrated: bool = False
    sources: tuple[Agent, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> str:
        """Return a digest of what the numbers depend on, except the code and the base agent."""
        agents = {name: agent.settings() for name, agent in self.agents.items()}
        sources = [[agent.settings() for agent in self.sources]] if self.sources else []
        return digest_of([agents, self.seed, self.steps, self.examples, self.options, self.calibrated, *sources])

    def measure(self, claim: str, work: Path) -> list[dict]:
        """Train and attack the agents, and return a run for each of them; `diverged` if its training failed."""
        trained = {name: agent.train(self.seed, self.steps, work) for name, agent in self.agents.items()}
        folders = {name: folder for name, folder in trained.items() if folder is not None}
        found = self._attack(claim, folders, work)
        runs = []
        for name in self.agents:
            numbers: dict[str, Any] = {"diverged": True}
            if name in folders:
                numbers = {number: found[name][number] for number in KEPT if number in found[name]}
                numbers |= training_numbers(folders[name])
                numbers |= {"temperature": _generation(folders[name])["temperature"]} if self.calibrated else {}
            runs.append(self.describe(claim, name) | numbers)
        return runs

    def describe(self, claim: str, agent: str) -> dict[str, Any]:
        """Return what a run of an agent contains beside its numbers."""
        same = {"claim": claim, "cell": self.key, "seed": self.seed, "settings": self.settings()}
        return same | self.facts | {"agent": agent} | self.agents[agent].facts

    def _attack(self, claim: str, folders: dict[str, Path], work: Path) -> dict[str, dict]:
        options = ["--examples", str(self.examples), "--seed", str(self.seed), *self.options]
        if self.calibrated:
            for folder in folders.values():
                with lock_of(folder):
                    if "temperature" not in _generation(folder):
                        # Observations of another seed than those of the evaluation.
                        told = ["calibrate", str(folder), "--seed", str(1000 + self.seed)]
                        run_command(told, folder.with_name(f"{folder.name}-calibrate"))
            options.append("--own_temperature")
        found = [agent.train(self.seed, self.steps, work) for agent in self.sources]
        if sources := [str(folder) for folder in found if folder is not None]:
            options += ["--transfer_from", *sources]
        name = "".join(c if c.isalnum() else "-" for c in self.key)
        return evaluate_once(work / f"{claim}-{name}", folders, options) if folders else {}


def training_numbers(folder: Path) -> dict[str, float]:
    """
    Return what the log of a training says: mean norm of the gradient, its standard deviation over its mean, its largest over
    its median value, and the mean share of the adversary's steps that did not lower the loss.
    """
    file = folder / "trainer_state.json"
    logs = json.loads(file.read_text())["log_history"] if file.is_file() else []
    numbers, norms = {}, gradient_norms(logs)
    if norms is not None:
        numbers = {"gradient_norm": norms["mean"], "gradient_variation": norms["coefficient_of_variation"]}
        values = [log["grad_norm"] for log in logs if "grad_norm" in log]
        if len(values) > 1:
            numbers["spike"] = max(values) / statistics.median(values)
    monotone = [log["aajr/monotone_fraction"] for log in logs if "aajr/monotone_fraction" in log]
    return numbers | ({"monotone_fraction": statistics.mean(monotone)} if monotone else {})


def _generation(folder: Path) -> dict:
    file = folder / "generation_config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def digest_of(parts: list) -> str:
    """Return a short digest of settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
