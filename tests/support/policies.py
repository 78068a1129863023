"""Small policies with known Jacobians, and the naive computations that serve as oracles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aajr_hf.objective import PerturbationSet


class MLP(nn.Module):
    """A two-layer tanh network over the flattened state: (B, *state) -> (B, *output), float64 unless told otherwise."""

    def __init__(self, state=(3, 4), output=(2, 5), width=16, gain=1.0, dtype=torch.float64):
        super().__init__()
        self.output = output
        self.inner = nn.Linear(torch.Size(state).numel(), width, dtype=dtype)
        self.outer = nn.Linear(width, torch.Size(output).numel(), dtype=dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_().mul_(gain / width**0.5)

    def forward(self, state: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(state.flatten(1)))).unflatten(1, self.output)


class Linear(nn.Module):
    """`z = W s` over the flattened state: its Jacobian is W everywhere, and it adds no curvature (C = 0)."""

    def __init__(self, weight: Tensor, output=None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.output = (weight.shape[0],) if output is None else output

    def forward(self, state: Tensor) -> Tensor:
        return (state.flatten(1) @ self.weight.T).unflatten(1, self.output)


def states(*shape: int, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def unit_directions(like: Tensor) -> Tensor:
    noise = torch.randn_like(like).flatten(1)
    return (noise / noise.norm(dim=1, keepdim=True)).reshape(like.shape)


def full_jacobian(policy, state: Tensor, *, create_graph: bool = False) -> Tensor:
    """The whole Jacobian of each example by reverse mode, row by row: (B, outputs, inputs)."""
    rows = []
    for example in state:
        jacobian = torch.autograd.functional.jacobian(
            lambda x: policy(x[None])[0].flatten(), example, create_graph=create_graph
        )
        rows.append(jacobian.flatten(1))
    return torch.stack(rows)


def explicit_amplification(policy, state: Tensor, direction: Tensor, *, create_graph: bool = False) -> Tensor:
    """`||J u||^2` from the whole Jacobian: (B,)."""
    jacobian = full_jacobian(policy, state, create_graph=create_graph)
    return (jacobian @ direction.flatten(1)[:, :, None]).squeeze(2).square().sum(dim=1)


def explicit_penalty(policy, state: Tensor, trajectory, *, create_graph: bool = False) -> Tensor:
    """Equation 20 from the whole Jacobian at every point, its directions and points held constant: (B,)."""
    total = 0
    for delta, direction in zip(trajectory.deltas, trajectory.directions, strict=False):
        total = total + explicit_amplification(policy, state + delta, direction, create_graph=create_graph)
    return total / len(trajectory.directions)


def naive_projection(delta: Tensor, ball: PerturbationSet, epsilon: float) -> Tensor:
    """The projection of one example (L, d), token by token where the ball's scope says so."""
    if ball.norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    if ball.scope == "token":
        return torch.stack(
            [token * min(1.0, epsilon / token.norm().item()) if token.any() else token for token in delta]
        )
    return delta * min(1.0, epsilon / delta.norm().item()) if delta.any() else delta


def naive_ascent(
    loss, example: Tensor, ball: PerturbationSet, *, steps, step_size, rule="gradient", mask=None
) -> dict:
    """Equations 11 and 12 for one example (L, d); `loss` maps it to a scalar."""
    epsilon = float(ball.epsilon)
    delta = torch.zeros_like(example)
    deltas, directions, losses, norms = [delta], [], [], []
    for _ in range(steps):
        point = delta.clone().requires_grad_()
        value = loss(example + point)
        (gradient,) = torch.autograd.grad(value, point)
        if mask is not None:
            gradient[~mask] = 0
        norm = gradient.square().sum().sqrt()
        unit = gradient / (norm + 1e-12)
        move = {"gradient": gradient, "normalized": unit, "sign": gradient.sign()}[rule]
        delta = naive_projection(delta + step_size * move, ball, epsilon)
        deltas.append(delta)
        directions.append(unit)
        losses.append(value.detach())
        norms.append(norm)
    losses.append(loss(example + delta).detach())
    return {
        "deltas": torch.stack(deltas),
        "directions": torch.stack(directions),
        "losses": torch.stack(losses),
        "gradient_norms": torch.stack(norms),
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def parameter_gradient(value: Tensor, policy: nn.Module) -> Tensor:
    """The gradient of a scalar by all parameters, flattened into one vector."""
    gradients = torch.autograd.grad(value, list(policy.parameters()), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(gradients, policy.parameters(), strict=True)
        ]
    )
