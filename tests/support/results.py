"""Results of four agents for the tests of reports and plots."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aajr_hf.evaluation.reporting.statistics import with_intervals

MULTIPLES = ("0.25", "0.5", "1")


THREAT_MODEL = {
    "epsilon": 0.4,
    "epsilon_mode": "relative",
    "perturbation_norm": "l2",
    "perturbation_scope": "sequence",
    "perturbed_tokens": "prompt",
}


def draw(function, results):
    """The figure that a function of the plots draws of results."""
    figure = Figure(figsize=(5.6, 4.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    function(figure, results)
    figure.canvas.draw()
    return figure


def greedy_outcomes(percent, examples):
    """0 or 1 per example; shares that differ are as good as independent, equal ones are of the same examples."""
    right = round(percent / 100 * examples)
    return (np.random.default_rng(right).permutation(examples) < right).astype(float).tolist()


def sampled_outcomes(percent, examples):
    """Probabilities with this mean, as far apart as they can be; the same examples are hard where the mean is equal."""
    share = percent / 100
    probabilities = share + min(share, 1 - share) * np.linspace(-1, 1, examples)
    return np.random.default_rng(round(10 * percent)).permutation(probabilities).tolist()


def trust(passed=True):
    rules = {"random points break no more than PGA": "0 of 1000 examples", "more steps break little more": "3 of 1000"}
    return [{"rule": rule, "passed": passed, "detail": detail} for rule, detail in rules.items()]


def make_run(nominal, sampled, worst, *, amplification=10.0, seconds=None, examples=1000):
    def by_multiple(values):
        return dict(zip(MULTIPLES, values, strict=True))

    worst_sampled = [max(0.0, share - 5.0) for share in worst]
    return with_intervals(
        {
            "nominal_success": nominal,
            "sampled_success": sampled,
            "nominal_cost": 0.251,
            "worst_case_success": by_multiple(worst),
            "sampled_worst_case_success": by_multiple(worst_sampled),
            "worst_case_cost": {m: 0.361 * float(m) for m in MULTIPLES},
            "outcomes": {
                "nominal_success": greedy_outcomes(nominal, examples),
                "sampled_success": sampled_outcomes(sampled, examples),
                "worst_case_success": by_multiple([greedy_outcomes(share, examples) for share in worst]),
                "sampled_worst_case_success": by_multiple([sampled_outcomes(s, examples) for s in worst_sampled]),
            },
            "attacks": {
                "margin": {
                    "attacked": dict.fromkeys(MULTIPLES, examples),
                    "broken": dict.fromkeys(MULTIPLES, examples // 10),
                    "success": by_multiple([share + 1.0 for share in worst]),
                },
                "tempered_nll": {
                    "attacked": dict.fromkeys(MULTIPLES, examples // 2),
                    "broken": dict.fromkeys(MULTIPLES, examples // 100),
                    "success": by_multiple(worst),
                },
            },
            "trust": trust(),
            "ray": make_ray(nominal, worst),
            "amplification": amplification,
            "random_amplification": amplification / 20,
            "spectral_norm": amplification * 1.7,
            "embedding_norm": 0.29,
            "train_seconds": seconds,
            "examples": examples,
        }
    )


def make_ray(nominal, worst):
    multiples = [i / 4 for i in range(13)]
    success = np.interp(multiples, [0, *map(float, MULTIPLES), 3], [nominal, *worst, 0.0]).tolist()
    return {
        "multiples": multiples,
        "success": success,
        "sampled_success": [0.9 * share for share in success],
        "nll": [0.01 + m**2 * (101 - nominal * worst[-1] / 100) / 100 for m in multiples],
    }


def as_results(runs, **more):
    """A whole result of these runs."""
    settings = {"attack_steps": 20, "attack_restarts": 3, "examples": 1000, "seed": 7, "environment": "congestion"}
    whole = {"kind": "robustness", "version": 2, "runs": runs, "train_epsilon": 0.4, "threat_model": THREAT_MODEL}
    return whole | {"settings": settings} | more


def make_stability(scale, within=(0.0, 25.0, 50.0)):
    def quartiles(middle):
        return [middle / 2, middle, middle * 2]

    steps = {
        "curvature": [-3.0, 1.0, 0.0],
        "absolute_curvature": [3.0, 1.0, 0.0],
        "amplification": [7.0, 6.0, 5.0],
        "step_size": [0.1, 0.2, 0.3],
    }
    examples = {
        "largest_absolute_curvature": 3.0,
        "largest_amplification": 7.0,
        "largest_step_size": 0.3,
        "loss_smoothness": 40.0,
        "residual": 0.0,
        "effective_smoothness": 1960.0,
        "step_size_bound": 5.1e-4,
    }
    shares = {"within_bound": [0.0] * 3, "within_curvature": list(within), "monotone": [100.0, 95.0, 90.0]}
    return {
        "per_step": {name: [sorted(quartiles(scale * value)) for value in values] for name, values in steps.items()},
        "per_example": {name: quartiles(scale * value) for name, value in examples.items()},
        "shares": shares | {"at_boundary": [0.0, 100.0, 100.0]},
        "monotone_within_curvature": 98.0,
    }
