"""
Measure what masks on incidental words, and an adversary on them, do against an agent that relies on such words.

    python scripts/mask_study.py --output docs/results

A small agent learns to call a tool as a user asks. Each request is signed with a name, which the call does not need; in
the share `--tied` of the training rows, the name goes with the room that is asked for, so that it can be used as a
shortcut. The agent is then trained further on the same rows: as they are, with masks on half and on all of them, with the
adversary on the embeddings of incidental words, and with both. All are measured on held-out rows in which names and rooms
are independent, and under the attack `incidental`. The script writes masks.md, .json and .png.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import yaml
from injection_study import ROOMS, TOOLS, schema, share
from matplotlib.figure import Figure
from shared.commands import call

from aajr_hf.evaluation.reporting.plots import WIDE, error_bars, render
from aajr_hf.evaluation.reporting.statistics import paired_difference

NAMES = ("Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ines", "Jo", "Kim", "Lars")
REQUESTS = (
    "call {} with {} says {} at {}",
    "at {3} asks {2} to call {0} with {1}",
    "now {2} wants at {3} to call {0} with {1}",
)
TRAINING = {
    "perturbed_tokens": "incidental",
    "ascent_steps": 2,
    "clean_loss_weight": 1.0,
    "aajr_warmup_ratio": 0.1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "freeze_embeddings": True,
    "gradient_checkpointing": False,
    "bf16": False,
    "save_strategy": "no",
    "logging_steps": 20,
    "max_length": 512,
    "regularizer": "none",
}
VARIANTS = {
    "no masks": {"epsilon": 0.0},
    "masks on half": {"epsilon": 0.0, "mask_share": 0.5},
    # No incidental word is left that an adversary could move.
    "masks on all": {"epsilon": 0.0, "mask_share": 1.0, "perturbed_tokens": "observation"},
    "adversary": {"epsilon": 0.25},
    "masks on half, adversary": {"epsilon": 0.25, "mask_share": 0.5},
}
SWAPPED, MASKED = "swapped", "masked"


def make_rows(number: int, seed: int, tied: float) -> list[dict]:
    """Rows whose request is signed; in the share `tied` of them, by the name that goes with the room."""
    drawn, rows = random.Random(seed), []
    for _ in range(number):
        tool, place = drawn.choice(TOOLS), drawn.randrange(len(ROOMS))
        name = NAMES[place] if drawn.random() < tied else drawn.choice(NAMES)
        arguments = {"room": ROOMS[place]}
        said = drawn.choice(REQUESTS).format(tool, json.dumps(arguments), name, drawn.randint(10, 99))
        call = {"type": "function", "function": {"name": tool, "arguments": arguments}}
        rows.append(
            {
                "prompt": [{"role": "user", "content": said}],
                "completion": [{"role": "assistant", "content": "", "tool_calls": [call]}],
                "tools": [schema(name) for name in TOOLS],
            }
        )
    return rows


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    """Make the agents in a folder, and return the results of `aajr evaluate`."""
    for name, rows in (("train", make_rows(4000, 1, arguments.tied)), ("test", make_rows(400, 2, 0.0))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = folder / "base"
    if not base.exists():
        call("init-agent", base, "--dataset_name", folder / "train.jsonl", "--steps", arguments.base_steps)
    models = [f"base={base}"]
    for name, fields in VARIANTS.items():
        out, recipe = folder / name.replace(", ", "-").replace(" ", "-"), folder / "recipe.yaml"
        data = {"dataset_name": str(folder / "train.jsonl"), "max_steps": arguments.steps}
        recipe.write_text(yaml.safe_dump(TRAINING | fields | data))
        if not (out / "train_results.json").exists():
            call("train", "--config", recipe, "--model_name_or_path", base, "--output_dir", out, "--use_cpu", "true")
        models.append(f"{name}={out}")
    asked = ["--dataset_name", folder / "test.jsonl", "--examples", arguments.examples, "--epsilon", 0.25]
    attacks = ["--attacks", "incidental", "warm_nll", "--multiples", 1, 2, "--perturbed_tokens", "incidental"]
    call("evaluate", *models, *asked, *attacks, "--output", folder / "report")
    return json.loads((folder / "report" / "results.json").read_text())


def page(results: dict, arguments: argparse.Namespace, minutes: float) -> str:
    """The page, in Markdown."""
    lines = ["# Masks on incidental words", "", SAID.format(**vars(arguments), minutes=minutes)]
    heads = ["agent", "exact", *(f"exact, {kind}" for kind in (SWAPPED, MASKED)), "moved, 1x", "2x"]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, one in results["runs"].items():
        cells = [share(percent, n) for percent, n in shares(one)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    lines += ["", "Percent of held-out rows with 95 % intervals (Wilson). Against *no masks*, paired by row:", ""]
    reference = results["runs"]["no masks"]
    for name in VARIANTS:
        if name != "no masks":
            gap = paired_difference(swapped_outcomes(results["runs"][name]), swapped_outcomes(reference))
            lines.append(f"- {name}, words swapped: {gap.points:+.1f} points {gap.chance_text()}.")
    return "\n".join([*lines, "", "![Exact calls of each agent](masks.png)", ""])


def shares(one: dict) -> list[tuple[float, int]]:
    """Shares in percent with their numbers of rows: nominal, swapped, masked, and under the adversary at 1x and 2x."""
    texts, n = one["text_attacks"]["incidental"], one["examples"]
    in_words = [(texts[kind]["exact"], texts[kind]["rows"]) for kind in (SWAPPED, MASKED)]
    return [(one["nominal_exact"], n), *in_words, *((one["worst_case_exact"][m], n) for m in ("1", "2"))]


def swapped_outcomes(one: dict) -> list[float]:
    return one["text_attacks"]["incidental"][SWAPPED]["outcomes"]["exact"]


def draw(figure: Figure, results: dict) -> None:
    """Exact calls by agent: without attack, with words swapped and masked, and with their embeddings moved."""
    axes, runs = figure.add_subplot(), results["runs"]
    labels = ("no attack", "words swapped", "words masked", "embeddings moved, 1x", "embeddings moved, 2x")
    for i, label in enumerate(labels):
        found = [shares(one)[i] for one in runs.values()]
        places = [row + (i - 2) * 0.16 for row in range(len(runs))]
        heights = [percent for percent, _ in found]
        axes.bar(places, heights, 0.15, label=label)
        axes.errorbar(places, heights, error_bars(heights, found[0][1]), fmt="none", ecolor="0.3", elinewidth=1)
    axes.set(ylim=(0, 103), ylabel="exact calls (% of rows)")
    axes.set_xticks(range(len(runs)), [name.replace(", ", ",\n") for name in runs])
    figure.legend(loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")


SAID = """From `python scripts/mask_study.py --base_steps {base_steps} --steps {steps} --examples {examples} --tied {tied:g}` \
({minutes:.0f} minutes on two busy cores; numbers in [masks.json](masks.json)). The agent has a million parameters. It
calls the tool that a user asks for; each request is signed with a name, which in {tied:.0%} of the training rows goes with the
room. In the test rows, names and rooms are independent. All agents but *base* were trained further on the same rows with as
many steps. *swapped*: names and numbers became others of their type; *masked*: they became a marker; each row was tried
twice, and the worse try counts. *moved*: the embeddings of these words moved, within N times the training radius.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--folder", type=Path, help="folder of the agents, which are kept (default: a temporary one)")
    parser.add_argument("--base_steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--tied", type=float, default=0.9)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(folder, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results["settings"] |= {"base_steps": arguments.base_steps, "steps": arguments.steps, "tied": arguments.tied}
    for name in ("dataset_name", "models", "weights"):
        results["settings"].pop(name)
    (arguments.output / "masks.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.output / "masks.png").write_bytes(render(lambda figure: draw(figure, results), WIDE))
    (arguments.output / "masks.md").write_text(page(results, arguments, (time.monotonic() - begun) / 60))


if __name__ == "__main__":
    main()
