"""Numbers of runs of the studies."""

from __future__ import annotations


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
