"""The process for one agent of `study.py`: it trains, attacks, shocks and measures the agent, and writes one file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from study_settings import (
    ATTACK,
    EPISODE_STEPS,
    EPSILON,
    IN_EPISODES,
    MEASURES,
    METHODS,
    PRESETS,
    ROOT,
    SHOCKS,
    Preset,
    Run,
    base_agent,
    settings_of,
)


def train(run: Run, preset: Preset, work: Path, device: str) -> Path | None:
    """Train the agent and return its folder; None if a number was not finite, because the setting is too strong."""
    from aajr_hf.cli.main import main as aajr

    base = base_agent(run.world, work)
    if run.method == "base":
        return base
    method = METHODS[run.method]
    options = {
        "model_name_or_path": base,
        "output_dir": work / run.label,
        "environment": run.world,
        # Every seed has other data. The base agent was trained on seed 0, which is never used here.
        "environment_seed": 1 + run.seed,
        "max_steps": preset.steps,
        "epsilon": 0.0 if run.method == "sft" else EPSILON,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "use_cpu": device == "cpu",
        "logging_steps": 50,
        "disable_tqdm": True,
        "overwrite": True,
        **method.changes,
    }
    if run.regularizer_lambda is not None:
        options |= {"lambda_mode": "absolute", "regularizer_lambda": run.regularizer_lambda}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    status = aajr(["train", "--config", str(ROOT / "recipes" / "congestion" / f"{method.recipe}.yaml"), *arguments])
    diverged = status == 1 and any((work / run.label).glob("_nonfinite-*"))
    if status and not diverged:
        sys.exit(status)
    return None if diverged else work / run.label


def measure(run: Run, preset: Preset, folder: Path) -> dict:
    from aajr_hf.environments import held_out_rows
    from aajr_hf.evaluation.agents import load_agent
    from aajr_hf.evaluation.robustness.evaluate import evaluate_agent

    agent = load_agent(str(folder))
    tuning = run.phase == "tuning"
    # Settings are chosen on other observations than those of the results, because the seeds differ.
    rows = held_out_rows(run.world, preset.tuning_examples if tuning else preset.examples, seed=run.seed)
    numbers = evaluate_agent(*agent, rows, replace(MEASURES, seed=run.seed))
    del numbers["outcomes"]  # thousands of values per run, which are not needed: runs are paired by seed
    return numbers if tuning else numbers | {"shocked": shocked(run, preset, agent)}


def shocked(run: Run, preset: Preset, agent: tuple) -> dict[str, dict[str, float]]:
    """
    Return means of the world's metrics over episodes: calm, under each shock, and under the first shock with attack.
    """
    shocks = SHOCKS[run.world]
    first = next(iter(shocks))
    results = {"calm": episodes(run, preset, agent)}
    for shock in shocks:
        results[shock] = episodes(run, preset, agent, shock)
    for epsilon in IN_EPISODES:
        results[f"{first}, attack {epsilon:g}"] = episodes(run, preset, agent, first, epsilon)
    return results


def episodes(run: Run, preset: Preset, agent: tuple, shock: str | None = None, epsilon: float | None = None) -> dict:
    from aajr_hf.environments import WORLDS
    from aajr_hf.evaluation.attacks.threat_model import ThreatModel
    from aajr_hf.evaluation.episodes.play import episode_seeds, play
    from aajr_hf.evaluation.episodes.players import AttackSettings, Experts, ModelPlayer

    kind, magnitude = WORLDS[run.world], SHOCKS[run.world][shock] if shock else 0
    worlds = [kind(shock=shock, magnitude=magnitude) for _ in range(min(preset.episodes, 12))]
    attack = None
    if epsilon is not None:
        attack = AttackSettings(ThreatModel(epsilon=epsilon), ATTACK, EPISODE_STEPS)
    player = ModelPlayer(*agent, attack=attack)
    opponent = Experts() if kind.two_sided else None
    records = [r for some in play(worlds, episode_seeds(preset.episodes, run.seed), player, opponent) for r in some]
    means = {name: sum(r["metrics"][name] for r in records) / len(records) for name in records[0]["metrics"]}
    sides = [record["sides"]["model"] for record in records]
    malformed = sum(side["malformed"] for side in sides) / sum(side["answers"] for side in sides)
    return means | {"success": means[kind.success], "malformed": malformed}


def training_numbers(folder: Path) -> dict:
    """Return the logs of training: time, gradient norms over all steps, and the metrics of the last inner ascent."""
    from aajr_hf.evaluation.comparison.runs import gradient_norms

    file = folder / "trainer_state.json"
    if not file.is_file():
        return {}
    logs = json.loads(file.read_text())["log_history"]
    norms = gradient_norms(logs)
    last = [log for log in logs if "aajr/gradient_norm" in log][-1]
    inner = ("aajr/monotone_fraction", "aajr/boundary_fraction", "aajr/embedding_norm")
    return {
        "gradient_norm": norms["mean"],
        "gradient_norm_variance": norms["variance"],
        "train_seconds": json.loads((folder / "train_results.json").read_text())["train_runtime"],
    } | {name.removeprefix("aajr/"): last[name] for name in inner if name in last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif ":" in arguments.device:
        os.environ["CUDA_VISIBLE_DEVICES"] = arguments.device.partition(":")[2]
    run, preset, work = Run(**json.loads(arguments.run)), PRESETS[arguments.preset], arguments.work
    folder = train(run, preset, work, arguments.device)
    result = vars(run) | {
        "steps": 0 if run.method == "base" else preset.steps,
        "settings": settings_of(run.world, run.method, preset, work),
    }
    if folder is None:
        zero = {f"{multiple:g}": 0.0 for multiple in MEASURES.multiples}
        result |= {"diverged": True, "nominal_success": 0.0, "sampled_success": 0.0}
        result |= {"worst_case_success": zero, "sampled_worst_case_success": zero}
    else:
        result |= measure(run, preset, folder) | training_numbers(folder)
        if run.phase == "tuning":  # otherwise the folders take thousands of megabytes
            shutil.rmtree(folder)
    temporary = work / f"{run.label}.tmp"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(work / f"{run.label}.json")


if __name__ == "__main__":
    main()
