"""Numbers of runs of the studies."""

from __future__ import annotations


def study_run(method, seed, at, reached, *, value=1e-3, phase="result", world="hide_and_seek"):
    return {
        "world": world,
        "method": method,
        "learning_rate": None if method == "base" else value if method in ("sft", "adversarial") else 2e-3,
        "regularizer_lambda": None if method in ("base", "sft", "adversarial") else value,
        "seed": seed,
        "phase": phase,
        "steps": 300,
        "nominal_success": at,
        "sampled_success": at - 5,
        "worst_case_success": {"1.2": reached + 5, "2": reached},
        "sampled_worst_case_success": {"1.2": reached - 5, "2": reached - 10},
        "nominal_cost": 0.5,
        "amplification": 10.0 + seed,
        "random_amplification": 1.0,
        "spectral_norm": 30.0,
        "gradient_norm": 2.0,
        "gradient_norm_variance": 1.0,
        "monotone_fraction": 0.9,
        "train_seconds": 80.0,
        "shocked": {"faster_seeker": {"success": 0.7, "hidden": 0.7, "win": 0.25}},
        "stability": {
            "shares": {"within_bound": [0, 0, 3], "within_curvature": [20, 40, 60], "at_boundary": [0, 50, 100]}
        },
    }


def method_run(worst, nominal=90.0):
    return {
        "nominal_success": nominal,
        "sampled_success": nominal,
        "worst_case_success": {"0.5": worst, "1": worst, "1.5": 0.0},
        "sampled_worst_case_success": {"0.5": worst, "1": worst, "1.5": 0.0},
        "amplification": 10.0,
        "gradients": 5.0,
        "attacks": {},
        "trust": [],
        "train_seconds": 60.0,
        "examples": 128,
    }
