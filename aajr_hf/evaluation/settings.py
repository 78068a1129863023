"""What an evaluation does, and how strong its attacks are."""

from __future__ import annotations

from dataclasses import dataclass

ATTACKS = ("pga", "random", "transfer", "token")


@dataclass(frozen=True)
class RobustnessSettings:
    """
    Attributes:
        train_epsilon: Radius of the l2 ball of training, in mean norms of the example's prompt embeddings.
        multiples: Radii of the attack, in multiples of it.
        attack_steps, attack_restarts: Strength of the attack on the expected system cost.
        ascent_steps: Steps of the ascent along which amplification is measured, at the training radius.
        spectral_examples, power_iterations: Examples and iterations of the spectral norm.
        batch_size: Examples per forward.
        seed: Of the attack's random starts and of the random directions.
        attacks: Of [`ATTACKS`]; `pga` always runs.
        token_trials: Substitutions per example that the attack `token` tries.
        sanity: Whether to attack with fewer steps and without a bound, too, to see that the attack does what one must.
        budget: gamma of F_ad and F_gamma, whose shares of the examples are measured, if any.
    """

    train_epsilon: float = 0.25
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    attack_steps: int = 20
    attack_restarts: int = 3
    ascent_steps: int = 3
    spectral_examples: int = 64
    power_iterations: int = 10
    batch_size: int = 128
    seed: int = 0
    attacks: tuple[str, ...] = ("pga",)
    token_trials: int = 64
    sanity: bool = False
    budget: float | None = None

    def progress_steps(self, examples: int) -> int:
        """How often an evaluation reports progress on so many examples."""
        by_multiple = 1 + ("random" in self.attacks) + ("transfer" in self.attacks)
        others = 1 + 2 * ("token" in self.attacks) + 2 * self.sanity
        return -(-examples // self.batch_size) * (len(self.multiples) * by_multiple + others)
