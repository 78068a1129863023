"""Results of four agents for the tests of reports and plots."""

import pytest


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
