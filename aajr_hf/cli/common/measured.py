"""What the study of the paper's claims measured of some settings: `aajr train` says it before it begins."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from trl import SFTConfig

from ...training.config.sft import AAJRConfig

# Written by scripts/study.py: settings, and a sentence about the agents that were trained with them.
MEASURED = Path(__file__).with_name("measured.json")
# They watch a training or say how a number is computed, but do not change what is trained.
_ASIDE = {"on_nonfinite", "rollback_interval", "overfitting_interval", "jacobian_estimator"}
# They change nothing where there is no penalty.
_OF_PENALTY = {
    *("regularizer_lambda", "lambda_mode", "lambda_schedule", "amplification_budget", "sensitivity_floor"),
    *("penalty_output", "penalty_reduction", "penalty_trajectory", "penalty_radius", "penalty_fraction"),
    *("penalty_interval", "power_iterations", "nuisance", "nuisance_rank"),
}


def measured_of(config: AAJRConfig) -> str | None:
    """Return what was measured of agents that were trained with these settings; None if none were."""
    mine = objective_of(config)
    for entry in json.loads(MEASURED.read_text(encoding="utf-8")):
        if entry["settings"] == mine:
            return entry["measured"]
    return None


def objective_of(config: AAJRConfig) -> dict[str, Any]:
    """Return the fields of the objective that are not at their defaults, and dropout, which makes agents robust, too."""
    aside = _ASIDE | (_OF_PENALTY if config.regularizer == "none" else set())
    aside |= {field.name for field in fields(SFTConfig)}
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in aside}
    changed = {name: value for name, value in values.items() if value != AAJRConfig.__dataclass_fields__[name].default}
    dropout = (config.model_init_kwargs or {}).get("attention_dropout")
    return changed | ({"attention_dropout": dropout} if dropout else {})
