"""The adversary of one micro-batch: projected gradient ascent on the prompt's embeddings, and all that it found."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...objective import AscentTrajectory, PerturbationSet, RecordedProducts, projected_gradient_ascent
from ..config.sft import LOCAL_REGULARIZERS, AAJRConfigMixin
from ..policy.monitoring import LogitRecorder
from ..policy.policy import AgentPolicy, embedding_norm, frozen_parameters
from ..policy.system_losses import SystemLoss


@dataclass
class PromptAscent:
    """
    Attributes:
        policy: The model on the micro-batch.
        state: Its embeddings (B, L, d), detached.
        scale: The mean norm of an embedding of each example, (B,): the unit of a relative epsilon.
        ball: The perturbations that are allowed.
        recorder: The logits at the points of the ascent.
        trajectory: Points and directions (equations 11 and 12), as perturbations of the origin: the policy adds the
            state. None if training needs no adversary.
        beyond: Where the ascent goes on from the end of the trajectory, in a ball `penalty_radius` times as large: for the
            penalty alone. None where it does not.
        products: What the linear layers returned at each step, of both, if they were kept.
        moves: Whether epsilon is above 0.
    """

    policy: AgentPolicy
    state: Tensor
    scale: Tensor
    ball: PerturbationSet
    recorder: LogitRecorder
    trajectory: AscentTrajectory | None = None
    beyond: AscentTrajectory | None = None
    products: list[RecordedProducts] | None = None
    moves: bool = True

    @property
    def delta(self) -> Tensor | None:
        """The perturbation that the outer loss sees; None where there is no ball to move in."""
        return None if self.trajectory is None or not self.moves else self.trajectory.deltas[-1]

    @property
    def of_penalty(self) -> PromptAscent:
        """The same, but that the trajectory has all points of the penalty, those beyond the ball, too."""
        if self.beyond is None:
            return self
        return replace(self, trajectory=self.trajectory.followed_by(self.beyond), beyond=None)

    def finish(self, logits: Tensor, losses: Tensor) -> None:
        """Take in what the outer pass has found at delta_K: logits (B, A, V) and losses (B,), which the ascent leaves out."""
        self.recorder.propose(logits)
        self.recorder.accept()
        if self.trajectory is not None:
            all_losses = torch.cat([self.trajectory.losses[:-1], losses.detach()[None]])
            self.trajectory = replace(self.trajectory, losses=all_losses)

    def select(self, rows: Tensor, steps: Tensor | None = None) -> PromptAscent:
        """
        That of some examples of the batch, within the ball or with all points of the penalty ([`of_penalty`]); with `steps` (n,),
        of a single step of each one's trajectory.
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
) -> PromptAscent:
    """
    The ascent on one micro-batch (equation 11).

    Args:
        config: The trainer's configuration.
        policy: The model on the micro-batch.
        system: What the adversary raises.
        epsilon_fraction: Fraction of epsilon in force, in (0, 1].
        keep_products: Whether to keep what the linear layers return at each point, for the jvp there.
        steps: Of the ascent; by default K. With fewer, each is as much longer, but those of the rule `gradient`.
        penalised: Whether there is going to be a penalty, if the configuration has one: without, no point beyond the ball is needed.
    """
    state = policy.embeddings()
    scale = embedding_norm(state, policy.batch)
    unit = scale if config.epsilon_mode == "relative" else torch.ones_like(scale)
    radius = epsilon_fraction * config.radius * unit
    ball = PerturbationSet(radius, config.perturbation_norm, config.perturbation_scope)
    steps = config.ascent_steps if steps is None else steps
    kept = {"products": [] if keep_products else None, "moves": config.radius > 0}
    ascent = PromptAscent(policy, state, scale, ball, LogitRecorder(), **kept)
    along_ascent = config.penalty_active and config.regularizer in LOCAL_REGULARIZERS
    if config.radius == 0 and not along_ascent:
        return ascent

    loss_of = _recorded_losses(ascent, system)
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
        # Without a ball to move in, all steps see the same point.
        ascent.trajectory = climb(ball, steps=steps if config.radius > 0 else 1, on_point=ascent.recorder.accept)
        further = _further_steps(config, steps) if along_ascent and penalised else 0
        if further:
            # Nothing there is a point of the recorder's: it proposes, and whoever evaluates delta_K next proposes anew.
            larger = replace(ball, epsilon=config.penalty_radius * radius)
            ascent.beyond = climb(larger, steps=further, start=ascent.trajectory.deltas[-1])
    return ascent


def _recorded_losses(ascent: PromptAscent, system: SystemLoss) -> Callable[[Tensor | None], Callable]:
    """From rows (n,), or None for all, to their losses as a function of delta, which keeps what the ascent keeps."""

    def loss_of(rows: Tensor | None) -> Callable[[Tensor], Tensor]:
        part = ascent.policy if rows is None else ascent.policy.select(rows)

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
    """How many steps more the ascent takes for the penalty: as many as the larger radius asks for."""
    # Rounded first: ten times 1.1 - 1 is one.
    return math.ceil(round((config.penalty_radius - 1) * steps, 9))


def _step_size(
    config: AAJRConfigMixin, epsilon_fraction: float, unit: Tensor, steps: int, extent: Tensor
) -> Tensor | str:
    if config.ascent_step_size == "auto":
        return "auto"
    if config.ascent_step_rule == "gradient":
        # Gradients shrink as their argument grows: where the state doubles, a plain step must grow fourfold.
        return config.ascent_step_size * epsilon_fraction * unit**2
    # All steps together go as far, however many there are.
    longer = config.ascent_steps / steps if steps else 1
    size = config.ascent_step_size * longer * epsilon_fraction * unit
    # A step of the whole gradient's unit norm; the sign's has the size in every coordinate.
    return size * extent if config.ascent_step_rule == "normalized" else size
