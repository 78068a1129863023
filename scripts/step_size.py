"""
Show what `ascent_step_size: auto` prevents, and what it costs.

    aajr init-agent outputs/agent
    python scripts/step_size.py --models outputs/agent --output docs/results

What it prevents: the script records the loss along the ascent, with fixed steps and with backtracking, on a linear
policy whose squared singular values span five orders of magnitude. The ascent lowers the squared distance from a
target. What it costs: on agents and held-out observations of their worlds, the script counts evaluations of the model
beyond the K of a plain ascent, in whole batches and per inner step. A trial of only some examples counts as their part
of the batch. The script writes step-size.md, .png and .json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.objective import PerturbationSet, projected_gradient_ascent
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.policy.policy import AgentPolicy, embedding_norm, frozen_parameters
from aajr_hf.training.policy.system_losses import ActionLoss

EPSILON = 0.25
STEPS = 40  # of the ascent on the ill-conditioned policy


def ill_conditioned() -> dict[str, list[float]]:
    """Return the losses g(delta_0), ..., g(delta_K) for two fixed step sizes and for `auto`."""
    torch.manual_seed(0)
    scales = torch.logspace(0, 2.5, 12, dtype=torch.float64)
    target = torch.randn(1, 12, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (scales * (x - target)).square().sum(dim=1)

    largest = float(scales.square().max())
    sizes = {"fixed, 1e-3": 1e-3, f"fixed, 1/L = {1 / largest:.0e}": 1 / largest, "auto": "auto"}
    start, ball = torch.zeros_like(target), PerturbationSet(10.0)
    return {
        name: projected_gradient_ascent(loss, start, ball, steps=STEPS, step_size=size).losses[:, 0].tolist()
        for name, size in sizes.items()
    }


def cost(model, tokenizer, world: str, *, steps: int, batch_size: int, batches: int) -> dict[str, float]:
    """Return the evaluations beyond one per inner step, and the share of steps that did not lower the loss."""
    rows = held_out_rows(world, batches * batch_size, seed=0)
    evaluated, monotone = 0.0, []

    def count(module, args, kwargs, output):
        nonlocal evaluated
        evaluated += kwargs["input_ids"].shape[0] / batch_size

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        for start in range(0, len(rows), batch_size):
            inputs = encode_examples(tokenizer, rows[start : start + batch_size], candidates=False)
            batch = AgentBatch.from_inputs(inputs, "prompt")
            policy, system = AgentPolicy(model, batch), ActionLoss("nll", batch, None)
            state = policy.embeddings()

            def loss_of(rows, policy=policy, system=system):
                part = policy if rows is None else policy.select(rows)
                return lambda delta: system.per_example(part(delta), rows)

            with frozen_parameters(model):
                trajectory = projected_gradient_ascent(
                    loss_of(None),
                    torch.zeros_like(state),
                    PerturbationSet(EPSILON * embedding_norm(state, batch)),
                    steps=steps,
                    step_size="auto",
                    mask=batch.perturbable,
                    select=loss_of,
                )
            monotone.append((trajectory.losses.diff(dim=0) >= 0).float().mean())
    finally:
        handle.remove()
    extra = (evaluated / batches - steps) / steps
    return {"extra_forwards_per_step": extra, "monotone_share": float(torch.stack(monotone).mean())}


def plot(losses: dict[str, list[float]], file: Path) -> None:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in losses.items():
        axes.plot([-value for value in values], label=name)
    axes.set(yscale="log", xlabel="inner step t", ylabel="distance from the maximum, -g")
    axes.set_title("Curvature from 1 to 1e5: fixed steps oscillate or crawl", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def page(results: dict) -> str:
    """Return the results as a page of Markdown."""
    losses = results["ill_conditioned"]
    falls = {name: sum(b < a for a, b in zip(v, v[1:], strict=False)) for name, v in losses.items()}
    lines = [
        "# Backtracking step sizes",
        "",
        "`scripts/step_size.py` makes this page. The policy is ill-conditioned (squared singular values from 1 to "
        "1e5). A fixed step that suits the flat directions oscillates along the steep directions, and a fixed step "
        "that is safe for the steep directions hardly moves along the flat directions:",
        "",
        f"| step size | -g at the start | after {STEPS} steps | steps that lowered g |",
        "|---|---|---|---|",
        *(f"| {name} | {-v[0]:.3g} | {-v[-1]:.3g} | {falls[name]} of {STEPS} |" for name, v in losses.items()),
        "",
        "![losses along the ascent](step-size.png)",
        "",
        f"The second table shows the cost on held-out observations, attacked within {EPSILON} times the prompt's "
        "mean embedding norm: evaluations of the model beyond those of a plain ascent, per inner step. One "
        "evaluation in K steps certifies the last step; the others are failed trials, and each counts as the part "
        "of the batch that is tried again.",
        "",
        "| agent | batch | K | additional forwards per step | monotone steps |",
        "|---|---|---|---|---|",
        *(
            f"| {c['agent']} | {c['batch_size']} | {c['steps']} | {c['extra_forwards_per_step']:.2f} | "
            f"{c['monotone_share']:.1%} |"
            for c in results["cost"]
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of agents of built-in worlds")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=8, help="of 32 observations for each agent (default: 8)")
    arguments = parser.parse_args()
    missing = [model for model in arguments.models if not (model / "config.json").is_file()]
    if missing:
        print(
            f"error: `--models`: there is no agent in {missing[0]}: make one with `aajr init-agent`", file=sys.stderr
        )
        sys.exit(2)
    results = {"ill_conditioned": ill_conditioned(), "cost": []}
    for folder in arguments.models:
        model, tokenizer = load_agent(str(folder))
        world = getattr(model.config, "aajr_environment", "congestion")
        for steps in (3, 8):
            size = {"steps": steps, "batch_size": 32}
            numbers = cost(model, tokenizer, world, **size, batches=arguments.batches)
            results["cost"].append({"agent": f"{folder.name} ({world})"} | size | numbers)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "step-size.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "step-size.md").write_text(page(results))
    plot(results["ill_conditioned"], arguments.output / "step-size.png")
    print(page(results))


if __name__ == "__main__":
    main()
