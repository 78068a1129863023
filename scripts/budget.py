"""
Test whether training meets an amplification budget for different initial values of lambda.

    for world in congestion commons hide_and_seek; do aajr init-agent outputs/$world --environment $world; done
    python scripts/budget.py --models outputs/congestion outputs/commons outputs/hide_and_seek --output docs/results

The script trains each agent in its world with `amplification_budget` twice: from lambda = 0, and from 100 times the
lambda that the first run has found. The settings are those of recipes/congestion/aajr-amortised.yaml, except for three
ascent steps, an absolute lambda, the default warm-up, and a constant learning rate of 5e-4, so that the end of a run does not depend on a
schedule. Runs that exist in `--work` are not repeated. The script writes budget.md, .png and .json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from shared.commands import ROOT, call, flags
from transformers import AutoConfig

RECIPE = ROOT / "recipes" / "congestion" / "aajr-amortised.yaml"
# Number of penalty evaluations in a running mean. Each evaluation samples four points from the ascents of a batch.
WINDOW = 20


def train(model: Path, world: str, start: float, budget: float, steps: int, folder: Path) -> dict[str, list[float]]:
    """
    Return the logs of the penalty's evaluations: `step`, current `lambda`, `ratio` of amplification to budget,
    `clean_loss`.
    """
    state = folder / "trainer_state.json"
    if not state.is_file():
        settings = {
            "environment": world,
            "model_name_or_path": model,
            "output_dir": folder,
            "overwrite": "true",
            "ascent_steps": 3,
            "amplification_budget": budget,
            "lambda_mode": "absolute",
            "regularizer_lambda": start,
            "max_steps": steps,
            "lr_scheduler_type": "constant_with_warmup",
            "learning_rate": 5e-4,
            "aajr_warmup_ratio": 0.1,
            "logging_steps": 4,
        }
        call("train", "--config", RECIPE, *flags(settings))
    logs = [log for log in json.loads(state.read_text())["log_history"] if "aajr/lambda" in log]
    return {
        "step": [log["step"] for log in logs],
        "lambda": [log["aajr/lambda"] for log in logs],
        "ratio": [1 + log["aajr/budget_violation"] for log in logs],
        "clean_loss": [log["aajr/clean_loss"] for log in logs],
    }


def running(values: list[float]) -> list[float]:
    """Return the means over the last WINDOW values."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - WINDOW) : i + 1])]


def summary(run: dict[str, list[float]]) -> dict[str, float | int | None]:
    """
    Return means over the last quarter of a run, the first step at which its running mean was within a tenth of the
    budget, and the last step at which it was not.
    """
    last = len(run["ratio"]) // 4
    smooth = list(zip(run["step"], running(run["ratio"]), strict=True))[WINDOW - 1 :]
    within = [step for step, ratio in smooth if abs(ratio - 1) <= 0.1]
    outside = [step for step, ratio in smooth if abs(ratio - 1) > 0.1]
    return {
        "ratio": sum(run["ratio"][-last:]) / last,
        "lambda": sum(run["lambda"][-last:]) / last,
        "clean_loss": sum(run["clean_loss"][-last:]) / last,
        "first_step_within": within[0] if within else None,
        "last_step_outside": outside[-1] if outside else None,
    }


def plot(results: list[dict], file: Path) -> None:
    worlds = list(dict.fromkeys(r["world"] for r in results))
    figure = Figure(figsize=(3.4 * len(worlds), 4.8), layout="constrained")
    grid = figure.subplots(2, len(worlds), sharex=True, squeeze=False)
    for column, world in enumerate(worlds):
        above, below = grid[:, column]
        above.axhspan(0.9, 1.1, color="0.9")
        for r in (r for r in results if r["world"] == world):
            label = "from 0" if r["start"] == 0 else f"from {r['start']:.1g}"
            above.plot(r["run"]["step"], running(r["run"]["ratio"]), label=label)
            below.plot(r["run"]["step"], r["run"]["lambda"])
        above.set(yscale="log", title=world)
        below.set_yscale("symlog", linthresh=1e-7)
        below.set_ylim(bottom=0)
        below.set_xlabel("optimizer step")
        above.legend(frameon=False, title="lambda")
    grid[0, 0].set_ylabel("mean amplification / budget")
    grid[1, 0].set_ylabel("lambda in force")
    figure.savefig(file, dpi=150)


def page(results: list[dict], budget: float) -> str:
    """Return the results as a page of Markdown."""
    lines = [
        "# Amplification budgets",
        "",
        "This page is about the amplification along the ascents of training itself: it does not measure a worst case.",
        "",
        f"`scripts/budget.py` makes this page. Agents are trained with `amplification_budget: {budget:g}`, from "
        "lambda = 0 and from 100 times the lambda that the first run has found. The amplification is the mean over "
        "the last quarter of the run, divided by the budget: 1 is exactly the budget, a smaller value is within it. "
        "Each logged value comes from four points sampled from the ascents of a batch, so the last columns use "
        f"running means over {WINDOW} values. *First step within* is the first step at which the running mean is "
        "within a tenth of the budget; *last step outside* is the last step at which it is not. Runs have "
        f"{results[0]['run']['step'][-1]} steps.",
        "",
        "| world | initial lambda | amplification / budget | final lambda | first step within | last step outside | "
        "clean loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        s = r["summary"]
        steps = ["never" if s[name] is None else str(s[name]) for name in ("first_step_within", "last_step_outside")]
        cells = [f"{r['start']:.2g}", f"{s['ratio']:.2f}", f"{s['lambda']:.2g}", *steps, f"{s['clean_loss']:.3f}"]
        lines.append(f"| {' | '.join([r['world'], *cells])} |")
    return "\n".join([*lines, "", "![the way to the budget](budget.png)"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of agents of built-in worlds")
    parser.add_argument("--budget", type=float, default=25.0, help="gamma (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of each run (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("outputs/budget"), help="of the runs (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.steps < 8 * WINDOW:
        parser.error(f"argument --steps: must be at least {8 * WINDOW}")
    missing = [model for model in arguments.models if not (model / "config.json").is_file()]
    if missing:
        print(
            f"error: `--models`: there is no agent in {missing[0]}: make one with `aajr init-agent`", file=sys.stderr
        )
        sys.exit(2)
    results = []
    for model in arguments.models:
        world = getattr(AutoConfig.from_pretrained(model), "aajr_environment", "congestion")
        start = 0.0
        for name in ("zero", "large"):
            if name == "large":
                start = 100 * results[-1]["summary"]["lambda"]
                if start == 0:
                    parser.error(
                        f"argument --budget: agents of {world} meet {arguments.budget:g} without a penalty: give a "
                        "smaller budget"
                    )
            folder = arguments.work / f"{world}-{arguments.budget:g}-{arguments.steps}-{name}"
            run = train(model, world, start, arguments.budget, arguments.steps, folder)
            results.append({"world": world, "start": start, "summary": summary(run), "run": run})
    arguments.output.mkdir(parents=True, exist_ok=True)
    recorded = {"budget": arguments.budget, "steps": arguments.steps, "results": results}
    (arguments.output / "budget.json").write_text(json.dumps(recorded) + "\n")
    (arguments.output / "budget.md").write_text(page(results, arguments.budget))
    plot(results, arguments.output / "budget.png")
    print(page(results, arguments.budget))


if __name__ == "__main__":
    main()
