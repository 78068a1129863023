"""Read how a run was trained, and the statistics of its gradient norm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...training.config.choices import CHOICES
from ...training.config.recipe import RECIPE, recipe_in, with_radius
from ...training.config.sft import AAJRConfig
from ...training.runs.checkpoints import INCOMPLETE
from ...training.runs.ema import is_average
from ...training.sharing.results import GradientNorms, Training

UNPENALISED = ("base", "sft", "adversarial")
# Reports list the methods in this order.
METHODS = (*UNPENALISED, *(name for name in CHOICES["regularizer"] if name != "none"))
_OTHER_SEEDS = ("data_seed", "environment_seed")
# Fields that only say how a run is stored, shown or distributed. They do not change the result of training.
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
    Read how the agent in a folder was trained, from its recipe and the defaults of the fields that the recipe leaves
    out.

    Returns:
        `method` (one of `METHODS`), `regularizer_lambda` (None without a penalty or with a budget), `epsilon` and
        `seed` (None for an agent without a recipe, whose method is `base`), `recipe` (all other fields that differ
        from the defaults, and whether the weights are an average) and `gradient_norm` (see [`gradient_norms`]).

    Raises:
        ValueError, OSError: for an incomplete model, and for a recipe or a trainer_state.json that cannot be read;
            names the file and the field.
    """
    if (folder / INCOMPLETE).exists():
        raise ValueError(f"The model in {folder} is incomplete: resume its run, or give another model.")
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
        numbers["regularizer_lambda"] = None  # the recipe has only the initial value
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
        raise ValueError(f"{file} is not a valid trainer state: {error!r}.") from error


def gradient_norms(log_history: list[dict[str, Any]]) -> GradientNorms | None:
    """
    Return statistics of the gradient norm over the steps of training.

    Args:
        log_history: Log history of the Trainer. `aajr/gradient_norm` and `aajr/gradient_norm_squared` are means over
            the steps since the previous entry, and together give the variance over all steps. Without them, the
            statistics are over the logged values of `grad_norm`, each of which is from a single step.

    Returns:
        `mean`, `variance`, `coefficient_of_variation` (standard deviation divided by mean), `values` (number of
        norms), `every_step` (whether every step is covered), `left_out` (number of norms that were not finite) and
        `curve`: for each log entry, the step, the mean and, if every step is covered, the standard deviation. None if
        no finite norm was logged.
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
