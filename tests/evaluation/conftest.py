"""Results of four agents for the tests of reports and plots."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(function, results):
    """The figure that a function of the plots draws of results."""
    figure = Figure(figsize=(5.6, 4.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    function(figure, results)
    figure.canvas.draw()
    return figure


def make_run(nominal, sampled, worst, *, amplification=10.0, seconds=None, examples=512):
    multiples = ("0.5", "1", "2")
    return {
        "nominal_success": nominal,
        "sampled_success": sampled,
        "nominal_cost": 0.251,
        "worst_case_success": dict(zip(multiples, worst, strict=True)),
        "sampled_worst_case_success": {m: w - 5.0 for m, w in zip(multiples, worst, strict=True)},
        "worst_case_cost": {m: 0.361 * float(m) for m in multiples},
        "amplification": amplification,
        "random_amplification": amplification / 20,
        "spectral_norm": amplification * 1.7,
        "embedding_norm": 0.29,
        "train_seconds": seconds,
        "examples": examples,
    }


@pytest.fixture
def results():
    base = make_run(100.0, 97.3, (59.2, 41.1, 29.3), amplification=155.0)
    del base["train_seconds"]
    return {
        "runs": {
            "base": base,
            "sft": make_run(99.9, 98.1, (58.2, 40.1, 28.3), amplification=161.0, seconds=400.0),
            "adversarial": make_run(99.6, 94.4, (67.2, 62.0, 49.2), amplification=117.0, seconds=1200.0),
            "aajr": make_run(81.3, 72.6, (78.1, 74.7, 70.1), amplification=4.03, seconds=3000.0),
        },
        "train_epsilon": 0.4,
        "settings": {
            "attack_steps": 20,
            "attack_restarts": 3,
            "examples": 512,
            "seed": 7,
            "environment": "congestion",
        },
    }


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


@pytest.fixture
def stable_results(results):
    """The same, with the stability of two of the four."""
    results["runs"]["adversarial"]["stability"] = make_stability(1.0)
    results["runs"]["aajr"]["stability"] = make_stability(0.5, within=(100.0, 100.0, 100.0))
    return results
