"""Runs of scripts/study.py."""

from __future__ import annotations

from claims.methods import METHODS

# The first value of each method, as if tuning had chosen it.
FIRST = {method: METHODS[method].values[0] for method in METHODS}


def claim_run(claim: str, cell: str, agent: str, **numbers) -> dict:
    """Return a run as a cell writes it."""
    nominal, left = numbers.pop("nominal", 90.0), numbers.pop("left", 50.0)
    return {
        "claim": claim,
        "cell": cell,
        "agent": agent,
        "seed": int(cell.rpartition(" ")[2]),
        "settings": "",
        "nominal_success": nominal,
        "sampled_success": numbers.pop("sampled", nominal),
        "worst_case_success": {"1": left},
        "sampled_worst_case_success": {"1": left},
        "train_seconds": 60.0,
    } | numbers
