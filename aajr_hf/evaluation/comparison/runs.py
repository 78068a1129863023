"""How a run was trained, and how its gradients behaved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...training.config.recipe import RECIPE, recipe_in, with_radius
from ...training.config.sft import CHOICES, AAJRConfig
from ...training.runs.checkpoints import INCOMPLETE
from ...training.runs.ema import is_average
from ...training.sharing.results import GradientNorms, Training

UNPENALISED = ("base", "sft", "adversarial")
# In the order in which they are listed.
METHODS = (*UNPENALISED, *(name for name in CHOICES["regularizer"] if name != "none"))
_OTHER_SEEDS = ("data_seed", "environment_seed")
# Say how a run is stored, shown or divided, not what is trained.
_ASIDE = ("output_dir", "run_name", "project", "overwrite", "report_to", "disable_tqdm", "use_cpu", "num_processes")
_ASIDE_PREFIXES = (
    "logging_",
    "save_",
    "hub_",
    "push_to_",
    "eval_",
    "accelerate_",
    "gradient_checkpointing",
    "activation_checkpointing",
)


def read_run(folder: Path) -> Training:
    """
    How the agent in a folder was trained: what its recipe says, what it leaves out being a default.

    Returns:
        `method` (one of `METHODS`), `regularizer_lambda` (None without a penalty or with a budget), `epsilon` and `seed` (None
        for an agent without a recipe, method `base`), `recipe` (what else differs from the defaults, and whether the weights
        are an average) and `gradient_norm`, see [`gradient_norms`].

    Raises:
        ValueError, OSError: for a model that was not written to its end, and for a recipe or a trainer_state.json that
            cannot be read; names the file and the field.
    """
    if (folder / INCOMPLETE).exists():
        raise ValueError(f"The model in {folder} was not written to its end: resume its run, or give another.")
    if not (folder / RECIPE).is_file():
        run = {"method": "base", "regularizer_lambda": None, "epsilon": None, "seed": None, "recipe": None}
    else:
        run = _read_recipe(folder)
    return run | {"gradient_norm": _read_gradients(folder / "trainer_state.json")}


def _read_recipe(folder: Path) -> dict[str, Any]:
    file, recipe = folder / RECIPE, with_radius(recipe_in(folder))
    numbers = {name: _number(file, recipe, name) for name in ("regularizer_lambda", "epsilon", "seed")}
    regularizer = recipe.get("regularizer", AAJRConfig.regularizer)
    if regularizer not in CHOICES["regularizer"]:
        raise ValueError(f"{file}: `regularizer` must be one of {', '.join(CHOICES['regularizer'])}.")
    if regularizer != "none" and recipe.get("amplification_budget") is not None:
        method = regularizer
        numbers["regularizer_lambda"] = None  # only where it began
    elif regularizer != "none" and numbers["regularizer_lambda"] > 0:
        method = regularizer
    else:
        method = "adversarial" if numbers["epsilon"] > 0 else "sft"
        numbers["regularizer_lambda"] = None
    defaults = {name: field.default for name, field in AAJRConfig.__dataclass_fields__.items()}
    others = {
        name: value
        for name, value in recipe.items()
        if name not in (*numbers, *_OTHER_SEEDS, *_ASIDE, "regularizer")
        and not name.startswith(_ASIDE_PREFIXES)
        and value != defaults.get(name)
    }
    if is_average(file.parent):
        others["weights"] = "average"
    return {"method": method} | numbers | {"recipe": others}


def _number(file: Path, recipe: dict[str, Any], name: str) -> float:
    value = recipe.get(name, getattr(AAJRConfig, name))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{file}: `{name}` must be a finite number; got {value!r}.")
    return int(number) if name == "seed" else number


def _read_gradients(file: Path) -> GradientNorms | None:
    if not file.is_file():
        return None
    try:
        return gradient_norms(json.loads(file.read_text(encoding="utf-8"))["log_history"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no state of a trainer: {error!r}.") from error


def gradient_norms(log_history: list[dict[str, Any]]) -> GradientNorms | None:
    """
    The norm of the training's gradient over all of its steps.

    Args:
        log_history: As Trainer keeps it. `aajr/gradient_norm` and `aajr/gradient_norm_squared` are means over the steps
            since the last entry: together they give the variance over all steps. Without them it is that of the
            `grad_norm`s, one step's each, that were logged.

    Returns:
        `mean`, `variance`, `coefficient_of_variation` (the standard deviation over the mean), `values` (how many norms these
        are of), `every_step` (whether they are all there were), `left_out` (norms that were not finite) and `curve`: steps
        with mean and, of several norms, standard deviation. None if no norm was logged.
    """
    names = ("aajr/gradient_norm", "aajr/gradient_norm_squared")
    every_step = any(all(name in log for name in names) for log in log_history)
    logged = [log for log in log_history if all(name in log for name in (names if every_step else ("grad_norm",)))]
    moments, last = [], 0
    for log in logged:
        mean = float(log[names[0] if every_step else "grad_norm"])
        square = float(log[names[1]]) if every_step else mean**2
        moments.append((log["step"], log["step"] - last if every_step else 1, mean, square))
        last = log["step"]
    finite = [moment for moment in moments if math.isfinite(moment[3])]
    count = sum(weight for _, weight, _, _ in finite)
    if not count:
        return None
    mean = sum(weight * value for _, weight, value, _ in finite) / count
    square = sum(weight * value for _, weight, _, value in finite) / count
    variance = max(0.0, square - mean**2)
    return {
        "mean": mean,
        "variance": variance,
        "coefficient_of_variation": math.sqrt(variance) / mean if mean > 0 else None,
        "values": count,
        "every_step": every_step,
        "left_out": sum(weight for _, weight, _, _ in moments) - count,
        "curve": [
            [step, value, math.sqrt(max(0.0, square - value**2)) if every_step else None]
            for step, _, value, square in finite
        ],
    }
