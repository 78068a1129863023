"""Choice of the best setting that `study.py` tried, and the runs whose setting is not the chosen one."""

from __future__ import annotations

import statistics

from study_settings import METHODS, TUNED_AS


def choose(tuned: list[dict]) -> float:
    """
    Return the value with the best sampled success, averaged over tuning seeds, no attack and all radii. This average is
    low
    for agents that are dull, unsure or not robust, and it gives all radii the same weight.
    """
    scores = tuning_scores(tuned)
    return max(scores, key=scores.get)


def tuning_scores(tuned: list[dict]) -> dict[float, float]:
    """Return the mean by which [`choose`] judges each tried value, in rising order of the values."""
    return {
        value: statistics.mean(
            success
            for run in tuned
            if value_of(run) == value
            for success in (run["sampled_success"], *run["sampled_worst_case_success"].values())
        )
        for value in sorted(map(value_of, tuned))
    }


def value_of(run: dict) -> float | None:
    """Return the tuned value: lambda if there is a penalty, else the learning rate; None for the base agent."""
    return run["learning_rate"] if run["regularizer_lambda"] is None else run["regularizer_lambda"]


def superseded(runs: list[dict]) -> list[dict]:
    """
    Return the runs of a world whose setting is not the one that all of its tuning runs choose. They come from a smaller
    grid, or from another machine with another choice.
    """
    tuning = [run for run in runs if run["phase"] == "tuning"]

    def chosen(method: str, rate: float | None = None) -> float | None:
        tuned = [run for run in tuning if run["method"] == method and rate in (None, run["learning_rate"])]
        return choose(tuned) if tuned else None

    def is_old(run: dict) -> bool:
        method, own_rate = run["method"], None
        if is_penalised(method):
            own_rate = run["learning_rate"]
            if chosen("adversarial") not in (None, own_rate):
                return True
        return run["phase"] == "result" and chosen(TUNED_AS.get(method, method), own_rate) not in (None, value_of(run))

    return [run for run in runs if is_old(run)]


def is_penalised(method: str) -> bool:
    return method in METHODS and METHODS[method].unit is not None
