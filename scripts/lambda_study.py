"""
Does one lambda carry over? The study behind `lambda_mode: relative`. It trains agents in two worlds with absolute and
relative lambdas, and, if `--model` gives the folder of a real language model, this model in `congestion`. All agents of
a world are attacked together, each also with what was found on the others.

    aajr fetch smollm2-135m
    python scripts/lambda_study.py --model outputs/smollm2-135m     # two hours on two cores

Agents and evaluations that exist in `--work` are not made again. The script writes lambda.json and lambda.md to
`--output`.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from recipe_study import ABSOLUTE, EVERY, K1, K3, SAMPLED
from shared.commands import ROOT, evaluate_once, slug, train_with
from shared.tables import markdown_table, runs_of, table, write_results

from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.models.bfloat16 import slow_bfloat16


def _relative(weight: float, regularizer: str = "aajr") -> tuple[str, dict]:
    points = EVERY if regularizer == "global_spectral" else SAMPLED
    fields = {"lambda_mode": "relative", "regularizer_lambda": weight, "regularizer": regularizer}
    return "aajr", points | K1 | fields


TUNED = 6e-5  # the absolute lambda that was tuned for the base agent of congestion
# Name -> recipe of congestion, and the fields that are set instead of the recipe's.
SETTINGS: dict[str, tuple[str, dict]] = {
    "adversarial, K = 1": ("adversarial", K1),
    "adversarial, K = 3": ("adversarial", K3),
    "AAJR, absolute 6e-5": ("aajr", SAMPLED | K1 | ABSOLUTE | {"regularizer_lambda": TUNED}),
    "AAJR, relative 0.01": _relative(0.01),
    "AAJR, relative 0.03": _relative(0.03),
    "random direction, absolute 0.03": (
        "aajr",
        SAMPLED | K1 | ABSOLUTE | {"regularizer_lambda": 0.03, "regularizer": "random_direction"},
    ),
    "random direction, relative 0.03": _relative(0.03, "random_direction"),
    "global spectral, relative 0.03": _relative(0.03, "global_spectral"),
}
# A unit in which the same lambda gives the base agent of congestion the tuned absolute one. It is not retrained with it.
NATS = "AAJR, nats at first"
# What is tried where an agent costs more.
FEW = ["adversarial, K = 1", "adversarial, K = 3", "AAJR, relative 0.03", "random direction, relative 0.03"]
# What is trained with five seeds.
FINALISTS = ["adversarial, K = 3", "AAJR, absolute 6e-5", "AAJR, relative 0.03", "random direction, absolute 0.03"]
# A gradient of the language model takes a second per observation.
FEW_OF_MODEL = ["adversarial, K = 1", "AAJR, relative 0.03", "random direction, relative 0.03", NATS]
CHEAP = ["--attacks", "nll", "tempered_nll", "margin", "transferred", "--attack_steps", "5", "--multiples", "0.5", "1"]
CHEAP += ["--batch_size", "8"]
SEEDS = (1, 2, 3, 4, 5)
WORLDS, REAL = ("congestion", "hide_and_seek"), "smollm2-135m"
FIRST = 4  # batches
# Name -> fields of a penalty whose size before training says what an absolute lambda would mean.
OUTPUTS = {
    "logits": {},
    "centered logits": {"penalty_output": "centered_logits"},
    "centered logits, mean of tokens": {"penalty_output": "centered_logits", "penalty_reduction": "token_mean"},
    # Its estimate from half of the ascents is noisier than its mean is large.
    "softmax-weighted (fisher)": {"penalty_output": "fisher"} | EVERY,
}
INTRODUCTION = """# Does one lambda carry over?

`python scripts/lambda_study.py --model outputs/smollm2-135m` makes this page and `lambda.json`. With
`lambda_mode: relative`, the loss contains lambda times the penalty over its own running mean. The gradient is then
that of `lambda log(mean R)`: lambda is the price, in nats per token of the loss, for dividing the mean squared
amplification by e. One base agent of each world (`docs/results/agents`), and SmolLM2-135M-Instruct after 50 steps of
plain fine-tuning on `congestion`, are trained with each setting. All agents of a table are attacked together, and
each agent also with what was found on the others, so numbers of different tables cannot be compared. The small agents
are attacked on 128 observations by every attack that `aajr evaluate` had when the table was made. A gradient of the language model takes a second
per observation, so it is attacked on 16 observations by four attacks with 5 steps each: its intervals are wide.
Success is in percent of held-out observations; 1x is the training radius. *ampl.* is the mean `||J u||` along the
ascent. Times were measured beside other work."""


@dataclass(frozen=True)
class Setup:
    """
    A base agent and how it is trained.

    Attributes:
        name: Name of the folder in `--work`.
        table: Title of the table.
        seed: Seed of training, of its examples, and of the observations.
        base: Folder of the base agent.
        recipes: Folder of the recipes.
        fields: Fields that are set instead of the recipes'.
        settings: Names of the settings that are tried.
        examples: Number of held-out observations.
        attacks: Further options of `aajr evaluate`.
    """

    name: str
    table: str
    seed: int
    base: Path
    recipes: Path
    fields: dict
    settings: list[str]
    examples: int
    attacks: list[str]

    def agent(self, work: Path, name: str) -> Path:
        return work / self.name / slug(name)

    def train(self, work: Path, name: str) -> None:
        """Train one agent."""
        if name == NATS:
            recipe, fields = SETTINGS["AAJR, absolute 6e-5"]
            tuned = base_agent("congestion", "congestion", 0, [])
            weight = TUNED * tuned.penalty_at_first(work) / self.penalty_at_first(work)
            fields = fields | {"regularizer_lambda": weight}
        else:
            recipe, fields = SETTINGS[name]
        self._train(recipe, self.agent(work, name), fields)

    def _train(self, recipe: str, folder: Path, fields: dict) -> None:
        common = {"model_name_or_path": self.base, "seed": self.seed} | self.fields
        train_with(self.recipes / f"{recipe}.yaml", folder, common | fields)

    def penalty_at_first(self, work: Path, output: str = "logits") -> float:
        """Return the mean penalty R of the first batches, before the weights change."""
        recipe, fields = SETTINGS["AAJR, absolute 6e-5"]
        few = {"max_steps": FIRST, "logging_steps": FIRST, "learning_rate": 0.0, "aajr_warmup_ratio": 0.0}
        self._train(recipe, folder := self.agent(work, f"at first {output}"), fields | few | OUTPUTS[output])
        (first,) = (
            log["aajr/penalty"]
            for log in json.loads((folder / "trainer_state.json").read_text())["log_history"]
            if "aajr/penalty" in log
        )
        return first

    def evaluate(self, work: Path) -> list[dict]:
        """Return the numbers of all agents, attacked together."""
        agents = {name: self.agent(work, name) for name in self.settings}
        options = ["--examples", str(self.examples), "--seed", str(self.seed), *self.attacks]
        found = evaluate_once(work / self.name / "evaluation", agents, options)
        return [run | {"setup": self.table} for run in runs_of(found, self.seed)]


def radius(setup: Setup) -> float:
    """Return the mean radius of the recipe's ball, in the unit of the embeddings, over held-out observations."""
    recipe = yaml.safe_load((setup.recipes / "aajr.yaml").read_text())
    threat = ThreatModel(epsilon=recipe["epsilon"], perturbed_tokens=recipe.get("perturbed_tokens", "prompt"))
    model, tokenizer = load_agent(str(setup.base))
    rows = held_out_rows(setup.fields.get("environment", recipe["environment"]), 128, seed=setup.seed)
    target = Target(model, read_batch(tokenizer, rows, threat.perturbed_tokens, model.device), threat)
    return target.ball(1.0).epsilon.mean().item()


def base_agent(world: str, name: str, seed: int, settings: list[str], table: str = "", **fields) -> Setup:
    """Return the stored base agent of a world."""
    base, recipes = ROOT / "docs" / "results" / "agents" / world, ROOT / "recipes" / "congestion"
    return Setup(name, table, seed, base, recipes, {"environment": world} | fields, settings, 128, [])


def setups(worlds: list[str], model: Path | None, work: Path) -> list[Setup]:
    """Return the base agents that are asked for; fine-tune the language model first."""
    chosen = []
    for world in worlds:
        names = list(SETTINGS) if world == "congestion" else [*FEW, "AAJR, absolute 6e-5", NATS]
        chosen.append(base_agent(world, world, 0, names, f"{world}, one seed"))
        if world == "congestion":
            for seed in SEEDS:
                title = f"{world}, five seeds"
                chosen.append(base_agent(world, f"{world}-{seed}", seed, FINALISTS, title, environment_seed=seed))
    if model is not None:
        folder, tuned = ROOT / "recipes" / REAL / "congestion", work / REAL / "sft"
        train_with(folder / "sft.yaml", tuned, {"model_name_or_path": model})
        fields = {} if not slow_bfloat16() else {"bf16": "false"}
        # The plain agent has learnt from the examples of seed 0.
        chosen.append(Setup(REAL, f"{REAL}, one seed", 1, tuned, folder, fields, FEW_OF_MODEL, 16, CHEAP))
    return chosen


def at_first(chosen: list[Setup], work: Path) -> list[dict]:
    """Return the sizes of the penalties before training, for each base agent that is not trained with several seeds."""
    found = []
    for setup in chosen:
        if setup.name in (*WORLDS, REAL):
            sizes = {output: setup.penalty_at_first(work, output) for output in OUTPUTS}
            found.append({"setup": setup.name, "radius": radius(setup), "penalty_at_first": sizes})
    return found


def page(runs: list[dict]) -> str:
    lines, trained = [INTRODUCTION, ""], [run for run in runs if "setting" in run]
    for setup in dict.fromkeys(run["setup"] for run in trained):
        mine = [run for run in trained if run["setup"] == setup]
        lines += [f"## {setup}", "", *table(mine), "", f"Attacks: {', '.join(mine[0]['attacks'])}.", ""]
    return "\n".join([*lines, *_units([run for run in runs if "setting" not in run])])


def _units(sizes: list[dict]) -> list[str]:
    """Return a table of what each penalty weighs before training, over that of the first base agent."""
    if not sizes:
        return []
    header = ["penalty", *(one["setup"] for one in sizes)]
    rows = []
    for output in OUTPUTS:
        for name, power in ((output, 0), (f"{output}, times the radius squared", 2)):
            weights = [one["penalty_at_first"][output] * one["radius"] ** power for one in sizes]
            rows.append([name, *(f"{weight:.3g} ({weight / weights[0]:.2g})" for weight in weights)])
    return ["## What an absolute lambda would multiply", "", UNITS, "", *markdown_table(header, rows), ""]


UNITS = f"""The penalty of {FIRST} batches before training, and over that of the first base agent in brackets. An absolute lambda carries
over between two agents if the numbers in brackets are alike. A lambda in nats of the first batches (*{NATS}* above) divides by
the first row's numbers once, `lambda_mode: relative` by their running mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "lambda-study", help="folder of the agents")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), help="worlds of small agents")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct (see aajr fetch)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once (default: %(default)s)")
    arguments = parser.parse_args()
    runs: list[dict] = []
    chosen = setups(arguments.worlds, arguments.model, arguments.work)
    for setup in chosen:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda name, setup=setup: setup.train(arguments.work, name), setup.settings))
        runs += setup.evaluate(arguments.work)
        print(f"evaluated {setup.name}", flush=True)
    runs += at_first(chosen, arguments.work)
    write_results(arguments.output / "lambda", runs, page(runs))


if __name__ == "__main__":
    main()
