"""The adversary of one micro-batch: projected gradient ascent on the prompt's embeddings, and its results."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...objective import AscentTrajectory, PerturbationSet, RecordedProducts, projected_gradient_ascent
from ..config.base import AAJRConfigMixin
from ..config.choices import LOCAL_REGULARIZERS
from ..policy.monitoring import LogitRecorder
from ..policy.policy import AgentPolicy, embedding_norm, fixed_seed, frozen_parameters
from ..policy.system_losses import SystemLoss


@dataclass
class PromptAscent:
    """
    Attributes:
        policy: The model on the micro-batch.
        state: Its embeddings (B, L, d), detached.
        scale: The mean norm of each example's perturbable embeddings, (B,): the unit of a relative epsilon.
        ball: The perturbations that are allowed.
        recorder: The logits at the points of the ascent.
        trajectory: Points and directions (equations 11 and 12), as perturbations of the origin: the policy adds the
            state. None if training needs no adversary.
        beyond: Continuation of the trajectory in a ball `penalty_radius` times as large, used only for the penalty; or
            None.
        products: Outputs of the linear layers at each step of both trajectories, if they were kept.
        moves: Whether epsilon is above 0.
        nuisance: For the regularizer `matched`, the factor of the covariance of nuisances, (d, r).
    """

    policy: AgentPolicy
    state: Tensor
    scale: Tensor
    ball: PerturbationSet
    recorder: LogitRecorder
    trajectory: AscentTrajectory | None = None
    beyond: AscentTrajectory | None = None
    products: list[RecordedProducts | None] | None = None
    moves: bool = True
    nuisance: Tensor | None = None

    @property
    def delta(self) -> Tensor | None:
        """The perturbation in the outer loss; None if nothing is perturbed."""
        return None if self.trajectory is None or not self.moves else self.trajectory.deltas[-1]

    @property
    def of_penalty(self) -> PromptAscent:
        """This ascent with a trajectory of all points of the penalty, including the points beyond the ball."""
        if self.beyond is None:
            return self
        return replace(self, trajectory=self.trajectory.followed_by(self.beyond), beyond=None)

    def finish(self, logits: Tensor, losses: Tensor) -> None:
        """
        Add the results of the outer pass at delta_K, which the ascent does not evaluate: logits (B, A, V) and losses
        (B,).
        """
        self.recorder.propose(logits)
        self.recorder.accept()
        if self.trajectory is not None:
            all_losses = torch.cat([self.trajectory.losses[:-1], losses.detach()[None]])
            self.trajectory = replace(self.trajectory, losses=all_losses)

    def forget_products(self, steps: Sequence[int]) -> None:
        """Free what was kept at some steps."""
        if self.products is not None:
            for t in steps:
                self.products[t] = None

    def select(self, rows: Tensor, steps: Tensor | None = None) -> PromptAscent:
        """
        Restrict the result to the examples `rows` (n,) and, if `steps` (n,) is given, to one step each. Points beyond
        the ball are dropped, except in the result of [`of_penalty`], where they are part of the trajectory.
        """
        trajectory = self.trajectory
        if trajectory is not None:
            trajectory = trajectory.select(rows) if steps is None else trajectory.at(steps, rows)
        part = {"policy": self.policy.select(rows), "state": self.state[rows], "scale": self.scale[rows]}
        return replace(self, trajectory=trajectory, beyond=None, products=None, **part)


def ascend(
    config: AAJRConfigMixin,
    policy: AgentPolicy,
    system: SystemLoss,
    epsilon_fraction: float,
    keep_products: bool,
    steps: int | None = None,
    penalised: bool = True,
    start_seed: int | None = None,
) -> PromptAscent:
    """
    Run the ascent on one micro-batch (equation 11).

    Args:
        config: The trainer's configuration.
        policy: The model on the micro-batch.
        system: The loss that the adversary raises.
        epsilon_fraction: Current fraction of epsilon, in (0, 1].
        keep_products: Whether to keep the outputs of the linear layers at each point, for the jvp at this point.
        steps: Number of steps, by default K. With fewer steps, each step is longer in proportion, except with the rule
            `gradient`.
        penalised: Whether the penalty, if the configuration has one, is going to be evaluated. If not, no points
            beyond the ball are computed.
        start_seed: If set, the ascent begins at a random point of the ball, drawn from this seed; otherwise at 0.
    """
    state = policy.embeddings()
    scale = embedding_norm(state, policy.batch)
    unit = scale if config.epsilon_mode == "relative" else torch.ones_like(scale)
    if policy.batch.radius_factor is not None:
        unit = unit * policy.batch.radius_factor.to(unit.dtype)
    radius = epsilon_fraction * config.radius * unit
    ball = PerturbationSet(radius, config.perturbation_norm, config.perturbation_scope)
    steps = config.ascent_steps if steps is None else steps
    kept = {"products": [] if keep_products else None, "moves": config.radius > 0}
    ascent = PromptAscent(policy, state, scale, ball, LogitRecorder(), **kept)
    along_ascent = config.penalty_active and config.regularizer in LOCAL_REGULARIZERS
    if config.radius == 0 and not along_ascent:
        return ascent

    with frozen_parameters(policy.model):
        # The jvp reuses whole passes, so what it reuses must have no prefix.
        loss_of = _recorded_losses(ascent, system, policy if keep_products else policy.with_cached_prefix())
    climb = functools.partial(
        projected_gradient_ascent,
        loss_of(None),
        torch.zeros_like(state),
        step_size=_step_size(config, epsilon_fraction, unit, steps, ball.extent(state, policy.batch.perturbable)),
        step_rule=config.ascent_step_rule,
        mask=policy.batch.perturbable,
        final_loss=False,
        # With dropout, an example's masks depend on its place in the batch.
        select=loss_of if policy.dropout_seed is None else None,
    )
    with frozen_parameters(policy.model):
        # If epsilon is 0, all steps see the same point.
        steps_here, start = steps if config.radius > 0 else 1, None
        if start_seed is not None:
            with fixed_seed(state.device, start_seed):
                start = ball.sample(state, policy.batch.perturbable)
        ascent.trajectory = climb(ball, steps=steps_here, on_point=ascent.recorder.accept, start=start)
        further = _further_steps(config, steps) if along_ascent and penalised else 0
        if further:
            # The recorder accepts none of these points: the next evaluation at delta_K replaces the proposed logits.
            larger = replace(ball, epsilon=config.penalty_radius * radius)
            ascent.beyond = climb(larger, steps=further, start=ascent.trajectory.deltas[-1])
    return ascent


def _recorded_losses(
    ascent: PromptAscent, system: SystemLoss, policy: AgentPolicy
) -> Callable[[Tensor | None], Callable]:
    """
    Return a function that maps rows (n,), or None for all, to their losses as a function of delta. Each evaluation
    records the logits and, if they are kept, the outputs of the linear layers.
    """

    def loss_of(rows: Tensor | None) -> Callable[[Tensor], Tensor]:
        part = policy if rows is None else policy.select(rows)

        def evaluate(delta: Tensor) -> Tensor:
            with contextlib.ExitStack() as stack:
                if ascent.products is not None:
                    ascent.products.append(stack.enter_context(RecordedProducts()))
                logits = part(delta)
            ascent.recorder.propose(logits, rows)
            return system.per_example(logits, rows)

        return evaluate

    return loss_of


def _further_steps(config: AAJRConfigMixin, steps: int) -> int:
    """Number of further ascent steps for the penalty, in proportion to the larger radius."""
    # Round first: in floating point, 10 * (1.1 - 1) is slightly above 1.
    return math.ceil(round((config.penalty_radius - 1) * steps, 9))


def _step_size(
    config: AAJRConfigMixin, epsilon_fraction: float, unit: Tensor, steps: int, extent: Tensor
) -> Tensor | str:
    if config.ascent_step_size == "auto":
        return "auto"
    if config.ascent_step_rule == "gradient":
        # Gradients shrink as their argument grows: if the state doubles, eta must grow fourfold.
        return config.ascent_step_size * epsilon_fraction * unit**2
    # The total length of all steps does not depend on their number.
    longer = config.ascent_steps / steps
    size = config.ascent_step_size * longer * epsilon_fraction * unit
    # A normalized step has one norm for the whole gradient; a sign step has this size in every coordinate.
    return size * extent if config.ascent_step_rule == "normalized" else size
