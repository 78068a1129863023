"""What the study says of the sensitivity that is left, of the gradient's norm and of the inner ascent."""

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
    """Amplifications, and whether a penalty leaves more of the other directions than the global one does."""
    zero, all_directions = final.get("adversarial", []), final.get("global_spectral", [])
    rows = []
    for name, runs in final.items():
        cells = [interval([run[field] for run in runs], 2) for field in SENSITIVITIES.values()]
        has_other = is_penalised(name) and runs is not all_directions
        beyond = paired(runs, all_directions, _relative_norm) if has_other else []
        cells += [interval(list(map(_relative_norm, runs)), 2), interval(beyond, 2, sign=True)]
        rows.append([name, *cells])
    text = (
        "Amplification of the logits. A random direction of the prompt's embeddings is all but orthogonal to the ascent directions (there "
        "are thousands of dimensions and three of these). The spectral norm over the amplification along the ascent says how much of the "
        "other directions is left relative to those of the adversary; last column: paired by seed."
    )
    header = ["method", *SENSITIVITIES, "spectral norm over the ascent's", "the same, beyond `global_spectral`'s"]
    kept = "; ".join(_kept(name, final[name], zero) for name in (*AAJR, "global_spectral") if name in final and zero)
    return "\n\n".join([text, rows_of(header, rows), *([f"Of adversarial training's, {kept}."] if kept else [])])


def _relative_norm(run: dict) -> float:
    return run["spectral_norm"] / run["amplification"]


def _kept(name: str, runs: list[dict], zero: list[dict]) -> str:
    ascent, random, norm = (
        100 * statistics.mean(r[field] for r in runs) / statistics.mean(r[field] for r in zero)
        for field in SENSITIVITIES.values()
    )
    return (
        f"`{name}` leaves {ascent:.0f} % along the ascent, {random:.0f} % along random directions and {norm:.0f} % of the "
        "spectral norm"
    )


def stability(final: Methods) -> str:
    """How the gradient's norm varies over training; Theorem 3's condition and monotone steps along the inner ascent."""
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
        "Gradient norm: before clipping, over all steps of a training; the penalty's part in its variation is what is beyond adversarial "
        "training's, paired by seed. Monotone: percent of the adversary's steps, over the last fifty of training, that did not lower the "
        "loss. The rest is percent of the steps of an ascent on the trained agent, over held-out observations: whose step size is within "
        "Theorem 3's bound of 1/L_eff, or within the inverse of the largest curvature that was met, and which end on the ball's boundary."
    )
    header = [
        "method",
        "gradient norm: variance",
        "its root over the mean",
        "the same, beyond adversarial training's",
        "monotone steps",
        "η ≤ 1/L_eff",
        "η ≤ 1/max\\|κ\\|",
        "at the boundary",
    ]
    return f"{text}\n\n{rows_of(header, rows)}"


def _shares(runs: list[dict], kind: str) -> list[float]:
    """Of each run, the percentage over all of the ascent's steps."""
    return [statistics.mean(run["stability"]["shares"][kind]) for run in runs if "stability" in run]


def _with_gradients(runs: list[dict]) -> list[dict]:
    return [run for run in runs if run.get("gradient_norm")]


def _variation(run: dict) -> float:
    """The standard deviation of the gradient's norm over its mean."""
    return run["gradient_norm_variance"] ** 0.5 / run["gradient_norm"]
