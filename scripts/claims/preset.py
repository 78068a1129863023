"""How much of the study is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Real:
    """The size of what is measured on a real language model; without `steps`, those of the recipes."""

    seeds: tuple[int, ...]
    examples: int
    steps: int | None = None


@dataclass(frozen=True)
class Preset:
    """
    The size of a study.

    Attributes:
        seeds: Seeds of the results; each has its own training data and observations. All of them are for the declared comparison
            (claims/robustness.py), the first three or four for everything else.
        tuning_seeds: Seeds on which settings are chosen. They are none of `seeds`.
        steps: Optimizer steps of every agent.
        examples: Held-out observations of a seed.
        methods: The methods that are compared, of `claims/methods.py`.
        values: How many values of its field each method tries, at most.
        budgets: Amplification budgets gamma.
        steps_of_ascent: K of the adversary in training.
        pressure: Pairs of K and training observations, that of the declared comparison first.
        step_sizes: Sizes eta of plain gradient steps, in units of epsilon squared.
        radii: Radii of the attacks, as multiples of the training radius. Small ones take longest, because little breaks there.
        worlds: Worlds of the episodes.
        bases: Base agents of each world; 0 is the stored one.
        episodes: Episodes of each agent and condition.
        real: The size of what is measured on `model`.
        model: Folder of SmolLM2-135M-Instruct; without it, claims about a real model are left out.
    """

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    steps: int
    examples: int
    methods: tuple[str, ...]
    values: int
    budgets: tuple[float, ...]
    steps_of_ascent: tuple[int, ...]
    step_sizes: tuple[float, ...]
    pressure: tuple[tuple[int, int], ...]
    radii: tuple[float, ...]
    worlds: tuple[str, ...]
    bases: tuple[int, ...]
    episodes: int
    real: Real
    model: Path | None = None


_ALL = (
    *("sft", "adversarial", "adversarial, dropout", "AAJR", "AAJR, exact", "AAJR, amortised", "AAJR, dropout"),
    *("random direction", "matched", "global spectral"),
)
PRESETS = {
    # Only tests that the study runs.
    "smoke": Preset(
        seeds=(1,),
        tuning_seeds=(100,),
        steps=2,
        examples=4,
        methods=("sft", "adversarial", "AAJR", "AAJR, amortised"),
        values=1,
        budgets=(10.0,),
        steps_of_ascent=(1,),
        step_sizes=(1.0,),
        pressure=((1, 100),),
        radii=(1.0,),
        worlds=("congestion",),
        bases=(0,),
        episodes=1,
        real=Real((1,), 2, 1),
    ),
    "small": Preset(
        seeds=(1,),
        tuning_seeds=(100,),
        steps=100,
        examples=48,
        methods=("sft", "adversarial", "AAJR", "AAJR, amortised", "random direction"),
        values=2,
        budgets=(10.0, 40.0),
        steps_of_ascent=(3,),
        step_sizes=(1.0,),
        pressure=((3, 8000),),
        radii=(0.5, 1.0, 1.5),
        worlds=("hide_and_seek",),
        bases=(0,),
        episodes=4,
        real=Real((1,), 16, 10),
    ),
    "full": Preset(
        seeds=(1, 2, 3, 4, 5, 6, 7, 8),
        tuning_seeds=(100,),
        steps=330,
        examples=128,
        methods=_ALL,
        values=3,
        budgets=(5.0, 20.0, 80.0),
        steps_of_ascent=(3, 1),
        step_sizes=(0.1, 1.0, 10.0),
        pressure=((3, 8000), (1, 8000), (3, 300)),
        radii=(1.0, 1.5, 2.0),
        worlds=("congestion", "commons", "hide_and_seek"),
        bases=(0, 1, 2),
        episodes=6,
        real=Real((1, 2, 3), 32),
    ),
}
