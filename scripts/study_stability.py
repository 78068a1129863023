"""The parts of the study's page about the remaining sensitivity, the gradient norm and the inner ascent."""

from __future__ import annotations

import statistics

from study_choice import is_penalised
from study_compare import AAJR, Methods, interval, paired, rows_of

SENSITIVITIES = {
    "along the ascent": "amplification",
    "along random directions": "random_amplification",
    "spectral norm": "spectral_norm",
}


def sensitivity(final: Methods) -> str:
    """
    Return a table of amplifications, and of whether a penalty leaves more of the other directions than the global one.
    """
    zero, all_directions = final.get("adversarial", []), final.get("global_spectral", [])
    rows = []
    for name, runs in final.items():
        cells = [interval([run[field] for run in runs], 2) for field in SENSITIVITIES.values()]
        has_other = is_penalised(name) and runs is not all_directions
        beyond = paired(runs, all_directions, _relative_norm) if has_other else []
        cells += [interval(list(map(_relative_norm, runs)), 2), interval(beyond, 2, sign=True)]
        rows.append([name, *cells])
    text = (
        "The table shows the amplification of the logits. A random direction of the prompt's embeddings is almost "
        "orthogonal to the ascent directions (there are thousands of dimensions, and three ascent directions). The "
        "spectral norm, divided by the amplification along the ascent, says how much of the other directions is left "
        "relative to the adversary's directions. The last column is paired by seed."
    )
    header = ["method", *SENSITIVITIES, "spectral norm over the ascent's", "the same, beyond `global_spectral`'s"]
    kept = "; ".join(_kept(name, final[name], zero) for name in (*AAJR, "global_spectral") if name in final and zero)
    return "\n\n".join(
        [text, rows_of(header, rows), *([f"Compared with adversarial training, {kept}."] if kept else [])]
    )


def _relative_norm(run: dict) -> float:
    return run["spectral_norm"] / run["amplification"]


def _kept(name: str, runs: list[dict], zero: list[dict]) -> str:
    ascent, random, norm = (
        100 * statistics.mean(r[field] for r in runs) / statistics.mean(r[field] for r in zero)
        for field in SENSITIVITIES.values()
    )
    return (
        f"`{name}` leaves {ascent:.0f} % along the ascent, {random:.0f} % along random directions and {norm:.0f} % of "
        "the spectral norm"
    )


def stability(final: Methods) -> str:
    """
    Return a table of how the gradient norm varies over training, and of Theorem 3's condition along the inner ascent.
    """
    rows, zero = [], _with_gradients(final.get("adversarial", []))
    for name, runs in final.items():
        known = _with_gradients(runs)
        beyond = paired(known, zero, _variation) if is_penalised(name) else []
        cells = [
            interval([run["gradient_norm_variance"] for run in known], 2),
            interval(list(map(_variation, known)), 2),
            interval(beyond, 2, sign=True),
            interval([100 * run["monotone_fraction"] for run in runs if "monotone_fraction" in run], 2),
        ]
        shares = [interval(_shares(runs, kind)) for kind in ("within_bound", "within_curvature", "at_boundary")]
        rows.append([name, *cells, *shares])
    text = (
        "The gradient norm is measured before clipping, over all steps of a training. The penalty's part in its "
        "variation is the difference from adversarial training, paired by seed. *Monotone steps* is the percentage "
        "of the adversary's steps that did not lower the loss, over the last fifty steps of training. The other "
        "columns are percentages of the steps of an ascent on the trained agent, over held-out observations: steps "
        "whose size is within Theorem 3's bound of 1/L_eff, steps whose size is within the inverse of the largest "
        "measured curvature, and steps that end on the ball's boundary."
    )
    header = [
        "method",
        "gradient norm: variance",
        "standard deviation over mean",
        "the same, beyond adversarial training's",
        "monotone steps",
        "η ≤ 1/L_eff",
        "η ≤ 1/max\\|κ\\|",
        "at the boundary",
    ]
    return f"{text}\n\n{rows_of(header, rows)}"


def _shares(runs: list[dict], kind: str) -> list[float]:
    """Return the percentage over all steps of the ascent, for each run."""
    return [statistics.mean(run["stability"]["shares"][kind]) for run in runs if "stability" in run]


def _with_gradients(runs: list[dict]) -> list[dict]:
    return [run for run in runs if run.get("gradient_norm")]


def _variation(run: dict) -> float:
    """Return the standard deviation of the gradient norm, divided by its mean."""
    return run["gradient_norm_variance"] ** 0.5 / run["gradient_norm"]
