"""What an evaluation does, and how strong its attacks are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .suite import ATTACKS
from .threat_model import ThreatModel

# Rewrites the observation's text, beyond any radius: no perturbation within a ball, as those of [`ATTACKS`].
TOKEN = "token"


@dataclass(frozen=True)
class RobustnessSettings:
    """
    Attributes:
        threat: What the adversary may do.
        multiples: Radii of the attacks, in multiples of its epsilon.
        attacks: Names from [`ATTACKS`], and `token`.
        attack_steps, attack_restarts: Of each ascent, and how many ascents each attack makes: the first from no perturbation.
        exhaustive: Whether every attack sees every example, and not only those that are not broken yet.
        ascent_steps: Steps of the ascent along which amplification is measured, at epsilon.
        spectral_examples, power_iterations: Examples and iterations of the spectral norm.
        batch_size: Examples per forward.
        seed: Of the attacks' random points and of the random directions.
        token_trials: Substitutions per example that the attack `token` tries.
        budget: gamma of F_ad and F_gamma, whose shares of the examples are measured, if any.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    multiples: tuple[float, ...] = (0.5, 1.0, 1.5)
    attacks: tuple[str, ...] = tuple(ATTACKS)
    attack_steps: int = 10
    attack_restarts: int = 1
    exhaustive: bool = False
    ascent_steps: int = 3
    spectral_examples: int = 64
    power_iterations: int = 10
    batch_size: int = 128
    seed: int = 0
    token_trials: int = 64
    budget: float | None = None


def nearest_to_one(multiples: Iterable[float]) -> float:
    """Of several multiples of epsilon the one that is nearest to epsilon itself; of two as near, the smaller."""
    return min(multiples, key=lambda multiple: (abs(multiple - 1), multiple))
