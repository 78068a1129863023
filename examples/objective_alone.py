"""
The objective without a language model: a controller reads eight sensors and sets two valves, in plain PyTorch.

    python examples/objective_alone.py

Twice the same controller learns from an expert: first by adversarial training alone, then with the penalty of AAJR. It
needs torch and `aajr_hf.objective` only.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from aajr_hf.objective import (
    AscentTrajectory,
    PerturbationSet,
    aajr_penalty,
    projected_gradient_ascent,
    trajectory_amplification,
)

BALL = PerturbationSet(epsilon=0.3)  # an l2 ball around what the sensors say
# Training takes one step to the boundary, as a cheap adversary does; the attack takes many.
TRAINING, ATTACK = {"steps": 1, "step_size": 0.3}, {"steps": 10, "step_size": 0.08}


def expert(sensors: Tensor) -> Tensor:
    """What the valves should be, (B, 2): the expert looks at four of the eight sensors."""
    return torch.stack([sensors[:, 0] * sensors[:, 1], torch.sin(2 * sensors[:, 2]) + sensors[:, 3]], dim=1)


def ascend(policy: nn.Module, sensors: Tensor, strength: dict) -> AscentTrajectory:
    """The adversary: equation 11 on the squared error of each example."""

    def loss(perturbed: Tensor) -> Tensor:
        return (policy(perturbed) - expert(sensors)).square().sum(dim=1)

    return projected_gradient_ascent(loss, sensors, BALL, step_rule="normalized", **strength)


def train(weight: float, steps: int, batch: int = 128) -> nn.Module:
    """Minimise `g(delta_K) + g(0) + weight * R` (equation 21)."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(steps):
        sensors = torch.randn(batch, 8)
        trajectory = ascend(policy, sensors, TRAINING)
        points = (sensors, sensors + trajectory.deltas[-1])
        loss = sum((policy(point) - expert(sensors)).square().sum(dim=1).mean() for point in points)
        if weight > 0:
            loss = loss + weight * aajr_penalty(policy, sensors, trajectory).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def measure(name: str, policy: nn.Module, examples: int = 2000) -> None:
    """Print the errors and the amplification on sensors that no training has seen."""
    sensors = torch.randn(examples, 8, generator=torch.Generator().manual_seed(1))
    trajectory = ascend(policy, sensors, ATTACK)
    amplification = trajectory_amplification(policy, sensors, trajectory).sqrt().mean()
    clean, attacked = trajectory.losses[0].mean(), trajectory.losses[-1].mean()
    print(f"{name:<12} {clean:>12.3f} {attacked:>18.3f} {amplification:>14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps (default: 400)")
    parser.add_argument("--weight", type=float, default=0.1, help="lambda of the penalty (default: 0.1)")
    arguments = parser.parse_args()
    print(f"{'training':<12} {'clean error':>12} {'error under attack':>18} {'amplification':>14}")
    for name, weight in (("adversarial", 0.0), ("aajr", arguments.weight)):
        measure(name, train(weight, arguments.steps))


if __name__ == "__main__":
    main()
