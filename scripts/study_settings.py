"""Settings of `study.py`: worlds, methods, the values tried for each method, and the size of each preset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from aajr_hf.evaluation.attacks.settings import RobustnessSettings
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.training.sharing.model_card import weights_digest

ROOT = Path(__file__).resolve().parent.parent
# The base agents of the committed results (in bfloat16), so that every machine starts from the same agents.
AGENTS = ROOT / "docs" / "results" / "agents"
EPSILON = 0.25
# This attack raises the expected system cost. The study uses no other attack, also not in episodes.
ATTACK = "cost"
# How agents are attacked and measured; the relative radii are 0.1, 0.2, 0.3 and 0.5.
MEASURES = RobustnessSettings(
    threat=ThreatModel(epsilon=EPSILON),
    multiples=(0.4, 0.8, 1.2, 2.0),
    attacks=(ATTACK,),
    attack_steps=10,
    attack_restarts=1,
    spectral_examples=32,
)
# Relative radii of the attack in episodes, and its number of steps.
IN_EPISODES, EPISODE_STEPS = (0.2, 0.5), 5
# The shocks in episodes of each world, with their magnitudes; the first shock is also combined with the attack.
SHOCKS = {
    "congestion": {"capacity_drop": 6, "misreported_peers": 3, "demand_spike": 1},
    "commons": {"greedy_newcomer": 3, "bad_season": 40},
    "hide_and_seek": {"faster_seeker": 1, "false_sightings": 1},
}
# Learning rates tried for methods without a penalty. A penalty uses the best rate of adversarial training without it.
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
# Strengths tried for methods with a penalty: the weight of the penalty at the start, in nats.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Method:
    """A recipe of `recipes/congestion` and the fields that are changed in it."""

    recipe: str
    changes: dict[str, str] = field(default_factory=dict)
    # The lambda that gives a base agent's penalty a weight of about one: the inverse of `aajr/penalty` in the first two
    # steps of `aajr train` from the agents of congestion and commons, with all points, and a learning rate and a lambda
    # of 1e-9 (aajr 0.2 to 1.8 million, spectral norms 3 to 9, Frobenius 7 to 11, random directions 1,200 to 2,100).
    # None without a penalty.
    unit: float | None = None

    def values(self) -> tuple[float, ...]:
        """Return the learning rates or lambdas to try."""
        return RATES if self.unit is None else tuple(float(f"{strength * self.unit:.3g}") for strength in STRENGTHS)


METHODS = {
    "sft": Method("sft"),
    "adversarial": Method("adversarial"),
    "global_spectral": Method("global", unit=2e-7),
    "local_spectral": Method("global", {"regularizer": "local_spectral", "penalty_trajectory": "sample"}, unit=2e-7),
    "global_frobenius": Method("global", {"regularizer": "global_frobenius"}, unit=1e-7),
    "random_direction": Method("aajr", {"regularizer": "random_direction"}, unit=5e-4),
    "aajr": Method("aajr", {"penalty_trajectory": "all", "penalty_fraction": "1.0"}, unit=1e-6),
    "aajr_amortised": Method("aajr-amortised", unit=1e-6),
}
# The mean of the amortised penalty is the exact penalty, so both use the lambda that is found with the cheaper method.
TUNED_AS = {"aajr": "aajr_amortised"}


@dataclass(frozen=True)
class Preset:
    """The size of a study. Tuning seeds start at 100, so that they differ from the seeds of the results."""

    worlds: tuple[str, ...]
    steps: int
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    tuning_examples: int
    examples: int
    episodes: int


PRESETS = {
    "smoke": Preset(("hide_and_seek",), 2, (100,), (0,), 4, 4, 1),
    "small": Preset(("hide_and_seek",), 100, (100,), (0, 1), 100, 200, 5),
    "full": Preset(("hide_and_seek", "congestion", "commons"), 200, (100, 101), (0, 1, 2, 3, 4), 200, 300, 12),
}


@dataclass(frozen=True)
class Run:
    """One agent. The base agent is not trained; lambda is None if there is no penalty."""

    world: str
    method: str
    learning_rate: float | None
    regularizer_lambda: float | None
    seed: int
    phase: str

    @property
    def label(self) -> str:
        values = [f"{value:g}" for value in (self.learning_rate, self.regularizer_lambda) if value is not None]
        return "-".join([self.world, self.method, *values, str(self.seed)])


def base_agent(world: str, work: Path) -> Path:
    """Return the folder of a world's base agent: the one in the work folder, else the one of the committed results."""
    own = work / f"base-{world}"
    return own if own.is_dir() else AGENTS / world


def settings_of(world: str, method: str, preset: Preset, work: Path) -> str:
    """
    Return a digest of everything that a method's run depends on, except the fields of [`Run`] and the code itself.
    """
    told = METHODS.get(method)
    recipe = yaml.safe_load((ROOT / "recipes" / "congestion" / f"{told.recipe}.yaml").read_text()) if told else None
    parts = [
        # More worlds or seeds do not change the runs of the other worlds and seeds.
        asdict(preset) | dict.fromkeys(("worlds", "seeds", "tuning_seeds")),
        recipe,
        told and told.changes,
        [asdict(MEASURES), IN_EPISODES, EPISODE_STEPS, SHOCKS[world]],
        weights_digest(base_agent(world, work)),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
