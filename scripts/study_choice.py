"""Which of the settings that `study.py` tries is the best one, and which runs are of another one."""

from __future__ import annotations

import statistics

from study_settings import METHODS, TUNED_AS


def choose(tuned: list[dict]) -> float:
    """
    The value with the best sampled success, averaged over tuning seeds, no attack and all radii: it falls where the agent is
    dull or unsure, as well as where it is not robust, and prefers no radius.
    """
    scores = tuning_scores(tuned)
    return max(scores, key=scores.get)


def tuning_scores(tuned: list[dict]) -> dict[float, float]:
    """Of each value that was tried, in rising order, the mean by which [`choose`] judges it."""
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
    """What was tuned: lambda where there is a penalty, the learning rate where there is none; None of the base agent."""
    return run["learning_rate"] if run["regularizer_lambda"] is None else run["regularizer_lambda"]


def superseded(runs: list[dict]) -> list[dict]:
    """
    Of a world's runs, those whose setting is not what all of its tuning runs choose: of a smaller grid, or of another
    machine that chose otherwise.
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
