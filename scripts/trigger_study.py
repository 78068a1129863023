"""
Measure triggers: words at the end of every observation that mislead an agent, and training against them.

    python scripts/trigger_study.py --output docs/results

The base agent of `docs/results/agents/congestion` is attacked with triggers of several lengths: found by gradients and a beam, the same with a
fluency term, and the best of random ones at the same cost. They are learnt on training rows and tried on held-out ones.
Then the agent is trained on a bank of these triggers, in no row, in half of them, in all, and in all with an adversary on
the embeddings. Each trained agent is attacked with the bank it was trained on, with triggers found anew on itself, and with
gradients. The script writes trigger.md, .png and .json. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from shared.commands import ROOT, call, flags

from aajr_hf.environments import expert_rows, held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks.ascent import Ascent
from aajr_hf.evaluation.attacks.fluency import NGram, observed_tokens
from aajr_hf.evaluation.attacks.lessons import LOSS
from aajr_hf.evaluation.attacks.rewriting import Attacked, Rewritten
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.attacks.trigger import TriggerLesson
from aajr_hf.evaluation.attacks.trigger_loss import words_of
from aajr_hf.evaluation.attacks.trigger_search import Effort
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.reporting.results import interval_text, percent_text
from aajr_hf.evaluation.reporting.statistics import paired_difference, wilson
from aajr_hf.evaluation.robustness.rewritten import judge_answers
from aajr_hf.training.data.triggers import Trigger, add_to_bank, read_triggers, with_trigger
from aajr_hf.training.policy.policy import frozen_parameters

WORLD, USERS = "congestion", {"user"}
EFFORT, WEIGHT = Effort(candidates=8, beam=2, rounds=2, starts=20), 0.1
BASE = Path(__file__).parents[1] / "docs" / "results" / "agents" / WORLD
KINDS = ("found", "fluent", "random", "any")
# Of the bank that is trained on, and of the triggers that trained agents are attacked with.
BANK_LENGTHS, ADAPTIVE = (1, 2, 3, 5), 3
TRAINED = {
    "base, not trained": None,
    "share 0": {"trigger_share": 0.0},
    "share 0.5": {"trigger_share": 0.5},
    "share 1": {"trigger_share": 1.0},
    "share 1 and PGA": {"trigger_share": 1.0, "epsilon": 0.25, "ascent_steps": 1, "clean_loss_weight": 1.0},
}


@dataclass
class Rows:
    """Rows to learn from, and rows to try."""

    learnt: list[dict[str, Any]]
    tried: list[dict[str, Any]]


class Measured:
    """An agent, and which held-out rows it answers rightly (1 or 0) under an attack."""

    def __init__(self, folder: Path, rows: Rows):
        self.model, self.tokenizer = load_agent(str(folder))
        self.rows = rows

    def right(self, text: str | None = None) -> list[int]:
        """Under a trigger, or without one."""
        return self.right_each([text] * len(self.rows.tried))

    def right_each(self, texts: list[str | None]) -> list[int]:
        """With a text at the end of each row."""
        rows = [
            row if text is None else row | {"prompt": with_trigger(row["prompt"], text, USERS)}
            for row, text in zip(self.rows.tried, texts, strict=True)
        ]
        on = Attacked(self.model, self.tokenizer, USERS, batch_size=64)
        return [int(right) for _, right, _ in sorted(judge_answers(on, [Rewritten(row) for row in rows]))]

    def triggers(self, length: int, seed: int = 0) -> dict[str, str]:
        """Triggers of one length, by kind."""
        lesson = TriggerLesson.of(self.model, self.tokenizer, self.rows.learnt, length, roles=USERS, batch_size=64)
        fluency = NGram(observed_tokens(self.tokenizer, self.rows.learnt, USERS), lesson.words)
        return {
            "found": lesson.find(length, EFFORT, seed),
            "fluent": lesson.find(length, EFFORT, seed, fluency=fluency, weight=WEIGHT),
            "random": lesson.random(length, EFFORT, seed),
        }

    def under_pga(self) -> list[int]:
        """Under an ascent of ten steps on the embeddings of the prompt."""
        batch = read_batch(self.tokenizer, self.rows.tried, "prompt", self.model.device, candidates=False)
        target = Target(self.model, batch, ThreatModel())
        search = Search(target, target.ball(1.0), list(range(len(self.rows.tried))), steps=10)
        with frozen_parameters(self.model):
            Ascent("PGA", LOSS)(search)
        return [int(a and not b) for a, b in zip(self.right(), search.broken.tolist(), strict=True)]


def of_length(agent: Measured, length: int) -> dict[str, Any]:
    """Attack an agent with triggers of one length: text and outcomes by kind."""
    found = {kind: {"text": text, "right": agent.right(text)} for kind, text in agent.triggers(length).items()}
    words, drawn = words_of(agent.tokenizer).texts, random.Random(length)
    texts = [" ".join(drawn.choices(words, k=length)) for _ in agent.rows.tried]
    return found | {"any": {"text": "", "right": agent.right_each(texts)}}


def of_trained(agent: Measured, bank: Path) -> dict[str, list[int]]:
    """Attack a trained agent: with nothing, all triggers of the bank, triggers found on itself, and gradients."""
    texts = agent.triggers(ADAPTIVE, seed=1)
    known = [agent.right(trigger.text) for trigger in read_triggers(bank)]
    return {
        "none": agent.right(),
        "bank": [min(outcomes) for outcomes in zip(*known, strict=True)],
        **{kind: agent.right(text) for kind, text in texts.items()},
        "PGA": agent.under_pga(),
    }


def train(base: Path, out: Path, bank: Path, fields: dict[str, Any], steps: int, seed: int) -> Path:
    """Train the base agent on the world's rows with triggers of a bank."""
    plain = {"epsilon": 0.0, "regularizer": "none", "clean_loss_weight": 0.0, "triggers": bank, "seed": seed}
    how = {
        "max_steps": steps,
        "warmup_steps": steps // 10,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_steps": steps,
    }
    told = {"model_name_or_path": base, "output_dir": out, "overwrite": True} | plain | how | fields
    call("train", "--config", ROOT / "recipes" / WORLD / "sft.yaml", *flags(told))
    return out


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """Return what a file holds; without a file, make it, so that an interrupted study goes on where it was."""
    if not file.exists():
        began = time.monotonic()
        text = json.dumps({"found": make(), "seconds": time.monotonic() - began})
        file.write_text(text)
        print(f"{file.stem} is measured", file=sys.stderr)
    return json.loads(file.read_text())


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the agents in a folder, and return all outcomes."""
    base, bank = arguments.base, folder / "bank.json"
    number = arguments.rows
    # One row of each moment, as the held-out rows are: the rows of one moment are alike.
    rows = Rows(expert_rows(WORLD, 10 * number, seed=0)[::10], held_out_rows(WORLD, 4 * number, seed=0))
    parts: dict[str, Any] = {}

    def part(name: str, make: Callable[[], Any]) -> Any:
        parts[name] = kept(folder / f"{name.replace(' ', '-')}.json", make)
        return parts[name]["found"]

    lengths = {"none": {"text": "", "right": part("no trigger", lambda: Measured(base, rows).right())}}
    for length in arguments.lengths:
        lengths[str(length)] = part(f"length {length}", lambda: of_length(Measured(base, rows), length))  # noqa: B023
    bank.unlink(missing_ok=True)
    texts = [lengths[str(n)][kind]["text"] for n in BANK_LENGTHS if str(n) in lengths for kind in ("found", "fluent")]
    add_to_bank(bank, [Trigger(text, agent="base", data=WORLD) for text in dict.fromkeys(texts)])
    trained: dict[str, dict[str, list[int]]] = {}
    for name, fields in TRAINED.items():
        trained[name] = {}
        for seed in range(arguments.seeds if fields is not None else 1):

            def train_and_attack(name=name, fields=fields, seed=seed) -> dict[str, list[int]]:
                out = folder / f"{name.replace(' ', '-')}-{seed}"
                place = base if fields is None else train(base, out, bank, fields, arguments.steps, seed)
                return of_trained(Measured(place, rows), bank)

            for attack, right in part(f"{name} {seed}", train_and_attack).items():
                trained[name].setdefault(attack, []).extend(right)
    minutes = sum(one["seconds"] for one in parts.values()) / 60
    found = {"lengths": lengths, "trained": trained, "bank": [trigger.text for trigger in read_triggers(bank)]}
    return found | {"settings": {"minutes": minutes}}


def share(outcomes: list[int]) -> str:
    percent = 100 * sum(outcomes) / len(outcomes)
    return f"{percent_text(percent)} {interval_text(list(wilson(percent, len(outcomes))))}"


def page(results: dict[str, Any]) -> str:
    """The page, in Markdown."""
    lengths, trained, setting = results["lengths"], results["trained"], results["settings"]
    lines = ["# Triggers: the same words at the end of every observation", "", SAID.format(**setting), ""]
    lines += [
        "| words | found | fluent | random | any | found: words | fluent: words |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.append(f"| 0 | {share(lengths['none']['right'])} | | | | | |")
    for length, kinds in lengths.items():
        if length != "none":
            shares = [share(kinds[kind]["right"]) for kind in KINDS]
            texts = [f"`{kinds[kind]['text']}`" for kind in KINDS[:2]]
            lines.append(f"| {length} | {' | '.join(shares + texts)} |")
    lines += ["", "Differences in points of success, paired by row:", ""]
    for length, kinds in lengths.items():
        for kind in KINDS[:2] if length != "none" else ():
            gap = paired_difference(kinds[kind]["right"], kinds["random"]["right"])
            unseen = "" if gap.sign < 0 else " No gain over random triggers is seen."
            lines.append(f"- {length} words, {kind} against random: {gap.points:+.1f} {gap.chance_text()}.{unseen}")
    lines += ["", "## Training on triggers", "", TRAINING.format(bank=len(results["bank"]), **setting), ""]
    attacks = {
        "none": "no attack",
        "bank": "bank",
        "found": "found anew",
        "fluent": "fluent",
        "random": "random",
        "PGA": "PGA, 1x",
    }
    lines += [f"| agent | {' | '.join(attacks.values())} |", "|---" * (len(attacks) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(share(one[attack]) for attack in attacks)} |" for name, one in trained.items()]
    lines += ["", "Differences in points of success, paired by seed and row:", ""]
    for name, one in trained.items():
        gap = paired_difference(one["found"], one["random"])
        unseen = "" if gap.sign < 0 else " No gain over random triggers is seen."
        lines.append(f"- {name}, found anew against random: {gap.points:+.1f} {gap.chance_text()}.{unseen}")
    for one, other in (("share 1", "share 0.5"), ("share 1", "share 0"), ("share 1 and PGA", "share 1")):
        for attack in ("none", "bank", "found", "PGA"):
            gap = paired_difference(trained[one][attack], trained[other][attack])
            lines.append(
                f"- {one} against {other}, {attacks[attack]}: {gap.points:+.1f} {gap.chance_text()}."
                + ("" if gap.sign else " No difference is seen.")
            )
    lines += ["", *verdict(trained), "", "![success by length, and by what was trained on](trigger.png)", ""]
    return "\n".join(lines)


def verdict(trained: dict[str, dict[str, list[int]]]) -> list[str]:
    """Whether triggered rows alone beat a mixture, and at which price."""
    said = []
    for attack, where in (("found", "under triggers that were found anew"), ("none", "without attack")):
        gap = paired_difference(trained["share 1"][attack], trained["share 0.5"][attack])
        words = {
            1: "leave more right answers than",
            -1: "leave fewer right answers than",
            0: "are not seen to differ from",
        }
        said.append(
            f"{where}, triggered rows alone {words[gap.sign]} half of them ({gap.points:+.1f} points {gap.chance_text()})"
        )
    return [
        f"A survey of such work says that training on triggered samples alone beats a mixture. Here, {said[0]}; {said[1]}."
    ]


def plot(results: dict[str, Any], file: Path) -> None:
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    lengths = [length for length in results["lengths"] if length != "none"]
    begin = results["lengths"]["none"]["right"]
    for color, kind in zip(("#D55E00", "#0072B2", "0.5", "0.8"), KINDS, strict=True):
        outcomes = [begin, *(results["lengths"][length][kind]["right"] for length in lengths)]
        heights = [100 * sum(values) / len(values) for values in outcomes]
        ends = [wilson(height, len(begin)) for height in heights]
        bars = [[h - lo for h, (lo, _) in zip(heights, ends, strict=True)]]
        bars.append([hi - h for h, (_, hi) in zip(heights, ends, strict=True)])
        left.errorbar([0, *map(int, lengths)], heights, bars, marker="o", capsize=3, color=color, label=kind)
    left.set(xlabel="words of the trigger", ylabel="success left (%)", ylim=(-3, 103))
    left.legend(frameon=False)
    names = list(results["trained"])
    for place, (color, attack) in enumerate(
        zip(("0.7", "#009E73", "#D55E00", "#000000"), ("none", "bank", "found", "PGA"), strict=True)
    ):
        outcomes = [results["trained"][name][attack] for name in names]
        heights = [100 * sum(values) / len(values) for values in outcomes]
        places = [index + 0.2 * (place - 1.5) for index in range(len(names))]
        label = {"none": "no attack", "found": "found anew", "PGA": "PGA, 1x"}.get(attack, attack)
        right.bar(places, heights, 0.2, color=color, label=label)
    right.set(ylabel="success left (%)", ylim=(0, 103), xticks=range(len(names)))
    right.set_xticklabels([name.replace(", ", ",\n").replace(" and ", "\nand ") for name in names], fontsize=8)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)


SAID = """From `python scripts/trigger_study.py --rows {rows} --steps {steps} --seeds {seeds}` ({minutes:.0f} minutes; numbers in
[trigger.json](trigger.json)). A trigger stands at the end of each observation; the right answer stays that of the observation.
A trigger may contain words of the world, and then contradicts the observation. Learnt on {rows} training rows, tried on
{tried} held-out rows. Success left in percent [95 %]. *found*: by HotFlip scores and a beam; *fluent*: the same, plus the mean
log-probability of the words in a bigram model of the observations, with weight {weight:g}; *random*: the best on the training
rows of as many random triggers as the search makes passes; *any*: random words, others for each row, which is no search at
all."""
TRAINING = """The base agent is trained for {steps} steps on triggers of the bank ({bank} triggers, found on the base agent), in a
share of its rows; number of seeds: {seeds}, the rows of all seeds together. Success left in percent [95 %]. *bank*: the worst of the
triggers that were trained on, for each row; *found anew*, *fluent*, *random*: {adaptive} words, searched on the trained agent itself;
*PGA*: ten steps on the embeddings of the prompt, within 0.25 of their mean norm."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument(
        "--base", type=Path, default=BASE, help="folder of the base agent (default: docs/results/agents/congestion)"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder of agents and results, to go on there (default: a temporary one)"
    )
    parser.add_argument(
        "--rows", type=int, default=64, help="rows to learn from; four times as many are tried (default: 64)"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--steps", type=int, default=250, help="training steps (default: 250)")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(folder, arguments)
    results["settings"] |= {
        "rows": arguments.rows,
        "tried": 4 * arguments.rows,
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "weight": WEIGHT,
        "adaptive": ADAPTIVE,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "trigger.md").write_text(page(results))
    (arguments.output / "trigger.json").write_text(json.dumps(results) + "\n")
    plot(results, arguments.output / "trigger.png")
    print(page(results))


if __name__ == "__main__":
    main()
