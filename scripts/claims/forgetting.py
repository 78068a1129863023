"""
What does a real language model forget when it becomes a robust agent? SmolLM2-135M-Instruct learns `congestion` and is then
fine-tuned by each method, with all weights or with LoRA. What it keeps of everything else is measured on 200 general prompts
(`scripts/forgetting.py`). This is the price that a user pays.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import smollm2_study
import yaml
from matplotlib.figure import Figure
from shared.commands import ROOT, run_command, slug
from shared.tables import markdown_table, text_of

from .cells import digest_of, lock_of
from .page import by_seed, cells_of, verdict, where
from .preset import Preset

TITLE = "What is forgotten"
NEEDS_MODEL = True
BASE, REFERENCE, DROPOUT, OURS = "sft", "adversarial", "adversarial, dropout", "AAJR"
OURS_LORA, REFERENCE_LORA = f"{OURS}, LoRA", f"{REFERENCE}, LoRA"
# Name -> recipe of recipes/smollm2-135m/congestion, and the fields that are set instead of the recipe's.
LORA = {"adapter": "lora", "adapter_rank": 16, "learning_rate": 1e-3}
METHODS: dict[str, tuple[str, dict]] = {
    f"{BASE}, LoRA": (BASE, LORA),
    REFERENCE: ("adversarial", {}),
    OURS: ("aajr", {}),
    DROPOUT: ("adversarial", {"model_init_kwargs": '{"attention_dropout": 0.1}'}),
    "global spectral": ("aajr", {"regularizer": "global_spectral"}),
    "local spectral": ("aajr", {"regularizer": "local_spectral"}),
    OURS_LORA: ("aajr-lora", LORA),
    REFERENCE_LORA: ("adversarial", LORA),
}
PAIRS = tuple((OURS, other) for other in (REFERENCE, DROPOUT, "local spectral", "global spectral"))
PAIRS += ((OURS_LORA, REFERENCE_LORA), (OURS_LORA, OURS))
# The cheapest evaluation: this claim needs success without attack alone. How robust the agents are, scripts/smollm2_study.py
# measures, with attacks on all of them together.
NO_ATTACK = ("--attacks", "random", "--multiples", "1")


@dataclass(frozen=True)
class RealCell:
    """
    One agent, made from a real language model; as [`claims.cells.Cell`].

    Attributes:
        attacks: Options of `aajr evaluate`; without any, success under attack is not measured.
    """

    agent: str
    recipe: str
    fields: dict
    model: Path
    seed: int
    steps: int | None
    examples: int
    attacks: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.agent}, seed {self.seed}"

    def settings(self) -> str:
        return digest_of([self._trained(), self.examples, self.attacks])

    def _trained(self) -> list:
        """Return what the agent depends on, except the code."""
        recipes = [smollm2_study.RECIPES / "congestion" / f"{name}.yaml" for name in (BASE, self.recipe)]
        read = [yaml.safe_load(recipe.read_text()) for recipe in recipes]
        return [read, self.fields, self.model.name, self.seed, self.steps]

    def _train(self, work: Path) -> Path:
        """Train the agent, unless it is there, and return its folder. Claims share agents with equal settings."""
        if self.recipe == BASE:  # one agent for all seeds
            trained, start, told = replace(self, seed=0), self.model, dict(self.fields)
        else:  # all seeds start from one agent that learnt the task
            trained, start = self, replace(self, recipe=BASE, fields={})._train(work)
            told = {"seed": self.seed, "environment_seed": self.seed} | self.fields
        told |= {"max_steps": self.steps} if self.steps else {}
        folder = work / "real" / f"{self.recipe}-{digest_of(trained._trained())}"
        with lock_of(folder):
            smollm2_study.train("congestion", self.recipe, folder, start, told)
        return folder

    def measure(self, claim: str, work: Path) -> list[dict]:
        place, name = work / "real", slug(self.agent)
        models = [f"{name}={self._train(work)}"]
        options = ["--examples", str(self.examples), "--seed", str(self.seed), "--batch_size", "16"]
        # The recipe of the plain agent has no adversary: it is attacked where the others are.
        options += [*(self.attacks or NO_ATTACK), "--perturbed_tokens", "observation", *smollm2_study.fast_numbers()]
        output = place / f"{claim}-evaluation-{self.settings()}"
        if not (output / "results.json").is_file():
            run_command(["evaluate", *models, *options, "--output", str(output)], output)
        kept = place / f"{claim}-kept-{self.settings()}.json"
        if not kept.is_file():
            command = [sys.executable, str(ROOT / "scripts" / "forgetting.py"), str(self.model), *models]
            subprocess.run([*command, "--output", str(kept)], check=True, stdout=subprocess.DEVNULL)
        success, general = json.loads((output / "results.json").read_text())["runs"], json.loads(kept.read_text())
        same = {"claim": claim, "cell": self.key, "seed": self.seed, "settings": self.settings(), "agent": self.agent}
        numbers = ["nominal_success", "train_seconds", *["worst_case_success"] * bool(self.attacks)]
        return [same | {number: success[name][number] for number in numbers} | general[name]]


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[RealCell]:
    return real_cells(preset, METHODS)


def real_cells(preset: Preset, methods: dict[str, tuple[str, dict]], attacks: tuple[str, ...] = ()) -> list[RealCell]:
    """Return the agents of all seeds, method by method, first the plain one, if there is a real model."""
    if preset.model is None:
        return []
    real = preset.real
    size = {"model": preset.model, "steps": real.steps, "examples": real.examples, "attacks": attacks}
    told = {BASE: (BASE, {})} | methods
    return [RealCell(name, *how, seed=seed, **size) for name, how in told.items() for seed in real.seeds]


def section(runs: list[dict]) -> list[str]:
    rows = []
    for agent in cells_of(runs, "agent"):
        mine = where(runs, agent=agent)
        numbers = [text_of([run["nominal_success"] for run in mine])]
        numbers += [
            text_of([run[name] for run in mine], 3 if name == "kl" else 2) for name in ("kl", "perplexity", "right")
        ]
        rows.append([agent, *numbers])
    header = ["agent", "nominal, %", "KL, nats per token", "perplexity", "right of what it knew, %"]
    lines = [
        "*nominal*: success in the world, without attack; docs/results/smollm2.md attacks some of these agents. *KL*: of the next token, from the model that it comes from, on the model's own answers. *perplexity*: on the same "
        f"answers; the model's own is {runs[0]['model_perplexity']:.2f}. *right of what it knew*: of the {runs[0]['asked']} "
        "facts and sums that the model answers rightly. *sft* is one agent, with which all other trainings of all seeds begin; *sft, LoRA* "
        "is one agent, too.",
        "",
        *markdown_table(header, rows),
        "",
    ]
    for ours, other in PAIRS:
        pair = [where(runs, agent=agent) for agent in (other, ours)]
        if all(pair):
            gains = by_seed(*pair, lambda run: run["kl"])
            lines.append(f"- {ours} forgets less than {other} (KL, nats per token): {verdict(gains, 3)}.")
    return lines


def draw(figure: Figure, runs: list[dict]) -> None:
    """What is forgotten, of each kind of prompt: means over seeds."""
    axes, agents, kinds = figure.subplots(), cells_of(runs, "agent"), list(runs[0]["by_kind"])
    for i, agent in enumerate(agents):
        shift = 0.6 * (i / max(len(agents) - 1, 1) - 0.5)
        means = [statistics.mean(run["by_kind"][kind] for run in where(runs, agent=agent)) for kind in kinds]
        axes.plot([place + shift for place in range(len(kinds))], means, "o", label=agent)
    axes.set(ylabel="KL from the model, nats per token", ylim=(0, None))
    axes.set_xticks(range(len(kinds)), kinds)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
