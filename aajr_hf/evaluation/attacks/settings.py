"""Settings of an evaluation and of its attacks."""

from __future__ import annotations

from dataclasses import dataclass, field

from .suite import ATTACKS
from .threat_model import ThreatModel

# This attack replaces numbers in the text of the observation. Unlike the others, it is not limited to a ball.
TOKEN = "token"


@dataclass(frozen=True)
class RobustnessSettings:
    """
    Settings of an evaluation.

    Attributes:
        threat: The threat model.
        multiples: Radii of the attacks, in multiples of the threat model's epsilon.
        attacks: Names from [`ATTACKS`], `token`, and `trigger`.
        attack_steps: Steps of each ascent.
        attack_restarts: Number of ascents of each attack; the first starts without perturbation.
        exhaustive: Whether every attack sees all examples. Otherwise, it sees only those that are not broken yet.
        ascent_steps: Steps of the ascent, within epsilon, along which amplification is measured.
        spectral_examples, power_iterations: Examples per batch and iterations for the spectral norm.
        batch_size: Examples per forward pass.
        seed: Seed of the attacks' random points and of the random directions.
        token_trials: Substitutions per example that the attack `token` tries.
        triggers: Texts of a bank of triggers, which the attack `trigger` also tries.
        budget: Amplification budget gamma of F_ad and F_gamma. If given, the shares of examples within it are
            measured.
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
    triggers: tuple[str, ...] = ()
    budget: float | None = None
