"""The penalty of a micro-batch: where it is evaluated, with which weight, and how it is differentiated."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import is_peft_model
from peft import PeftType
from torch import Tensor
from transformers import logging

from ..._compat.transformers import CHECKPOINTING
from ..adversary.ascent import PromptAscent
from ..adversary.estimators import calibrate
from ..adversary.one_by_one import sum_one_by_one
from ..adversary.penalties import penalty
from ..adversary.penalty_sampling import PenaltyPoints, control_variate, sample_points
from ..adversary.sensitivity import sensitivity
from ..config.choices import LOCAL_REGULARIZERS
from ..policy.policy import fixed_seed

# Relative error of finite differences above which a warning is logged, because the penalty's value no longer matches
# its formula.
_LARGE_ERROR = 0.1


@dataclass(frozen=True)
class AttackedBatch:
    """
    One micro-batch of B examples after the ascent.

    Attributes:
        ascent: The result of the adversary.
        logits: The logits at `delta_K`, (B, A, V), with their graph.
        losses: `g(delta_K)`, (B,), with their graph.
        clean: The logits at 0, with their graph; None if the clean loss is not minimised.
        aux_loss: The router's loss of a mixture of experts, or None.
    """

    ascent: PromptAscent
    logits: Tensor
    losses: Tensor
    clean: Tensor | None
    aux_loss: Tensor | None


@dataclass(frozen=True)
class Penalised:
    """
    The penalty of one micro-batch.

    Attributes:
        mean: The mean of R over the evaluated examples, with its graph or its known gradient.
        rows: The indices of these examples, (n,).
        metrics: Means of the amplification at the points.
        shortfall: The mean of what is missing to the `sensitivity_floor`, squared, with its graph; None without a floor.
    """

    mean: Tensor
    rows: Tensor
    metrics: dict[str, Tensor]
    shortfall: Tensor | None = None


class PenaltyMixin:
    """Mixin for a TRL trainer with an [`AAJRConfigMixin`]: the penalty of each micro-batch."""

    @property
    def _penalised_now(self) -> bool:
        """Whether the penalty is evaluated in this optimizer step."""
        return self.args.penalty_active and self.state.global_step % self.args.penalty_interval == 0

    @property
    def _shares_forwards(self) -> bool:
        """
        Whether the exact products reuse the outputs of linear layers from the ascent's passes at the same points. This
        requires that the penalty is evaluated at all points of all examples, that adapters do not compute new weights
        in each forward pass, and that weights stay in memory.
        """
        args = self.args
        everywhere = args.regularizer == "aajr" and args.penalty_trajectory == "all" and args.penalty_fraction == 1
        # "auto" evaluates some examples separately; below a perturbed layer, the jvp computes no product.
        at_once = args.ascent_step_size != "auto" and args.perturbed_layer == 0
        adapter = self.model.active_peft_config if is_peft_model(self.model) else None
        # Other adapters compute new weights in each forward pass.
        kept = adapter is None or adapter.peft_type == PeftType.LORA and not adapter.use_dora
        stays = kept and not self.is_fsdp_enabled
        return everywhere and at_once and stays and self.estimator == "jvp" and not getattr(args, CHECKPOINTING)

    @property
    def _one_by_one(self) -> bool:
        """
        Whether the penalty is differentiated point by point, which keeps the graph of one point in memory instead of
        all. Wrappers that shard weights allow only one backward pass.
        """
        args = self.args
        several = args.ascent_steps > 1 or args.penalty_radius > 1
        along = args.regularizer in LOCAL_REGULARIZERS and args.penalty_trajectory == "all"
        return several and along and not self.is_fsdp_enabled and not self.is_deepspeed_enabled

    def _penalty_terms(
        self, attacked: AttackedBatch, penalised: Penalised | None, num_items: Tensor | int | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """
        Return lambda R as terms of the loss (the control variate of all examples, and the rest, estimated from drawn
        examples), and its metrics. If `penalised` is given, the penalty is already evaluated.
        """
        weight = self._lambda / self._accumulation(num_items)
        terms, metrics = [], {}
        known = control_variate(self.args, attacked.ascent, attacked.logits, attacked.clean)
        if known is not None:
            terms.append(weight * known.mean())
        if self._penalised_now:
            penalised = penalised or self._penalise(attacked.ascent)
            rest, metrics = penalised.mean, penalised.metrics
            if known is None:
                metrics["aajr/penalty"] = rest
            else:
                rest = rest - known[penalised.rows].mean()
                metrics["aajr/penalty"] = known.mean() + rest
            terms.append(weight * self.args.penalty_interval * rest)
            if penalised.shortfall is not None:
                terms.append(weight * self.args.penalty_interval * penalised.shortfall)
        if self.budget is not None:
            metrics["aajr/loss_magnitude"] = attacked.losses.abs().mean()
        return terms, metrics

    @property
    def _lambda(self) -> float:
        """The penalty's weight in this optimizer step."""
        weight = self.args.regularizer_lambda if self.budget is None else self.budget.weight
        if self.penalty_scale is not None:
            weight *= self.penalty_scale.weight
        return self.schedules.lambda_fraction * weight

    def _penalise(self, ascent: PromptAscent) -> Penalised:
        """Evaluate the penalty at its points."""
        if self.args.regularizer == "matched":
            ascent.nuisance = self.nuisance_factor()
        # From the RNG that a resumed run restores. Each process draws other points, because its batches differ.
        seed = int(torch.randint(2**31, ())) + self.draw_offset
        points = sample_points(self.args, ascent, torch.Generator().manual_seed(seed))
        step = None if self.estimator == "jvp" else self._difference_step(points.ascent) * points.ascent.scale
        norms = []

        def mean_at(steps: Sequence[int]) -> Tensor:
            values, found = penalty(self.args, points.ascent, steps, estimator=self.estimator, difference_step=step)
            norms.append(found)
            points.ascent.forget_products(steps)
            # Without an adversary there are no steps, and a global penalty has its points elsewhere.
            return values.mean() * (len(steps) / len(points.steps) if points.steps else 1.0)

        with fixed_seed(points.ascent.state.device, seed):  # random directions differ between processes, too
            if self._one_by_one:
                scaler = self.accelerator.scaler
                scale = 1.0 if scaler is None else scaler.get_scale()
                each = (mean_at([t]) for t in points.steps)
                mean = sum_one_by_one(each, list(self.model.parameters()), scale)
            else:
                mean = mean_at(points.steps)
            found = None
            if self.args.sensitivity_floor > 0:
                found = sensitivity(self.args, ascent, points.rows, estimator=self.estimator, difference_step=step)
        metrics = self._norm_metrics(points, torch.cat(norms))
        if found is None:
            return Penalised(mean, points.rows, metrics)
        metrics |= {"aajr/sensitivity": found.mean, "aajr/sensitivity_shortfall": found.shortfall}
        return Penalised(mean, points.rows, metrics, found.shortfall)

    def _norm_metrics(self, points: PenaltyPoints, norms: Tensor) -> dict[str, Tensor]:
        """Metrics of the penalised norms, (points, n): `||J u_t||` with the regularizer aajr."""
        along_ascent = self.args.regularizer == "aajr"
        metrics = {"aajr/amplification": norms.mean(dim=0).mean()} if along_ascent else {}
        if self.budget is not None:
            beyond, counted = norms - self.budget.budget, torch.ones_like(norms)
            if along_ascent:
                # Without a gradient of the loss there is no direction, and the amplification 0 does not count as slack.
                counted = points.ascent.trajectory.gradient_norms[list(points.steps)] > 0
            excess, slack = beyond.clamp_min(0).mean(), ((-beyond).clamp_min(0) * counted).mean()
            metrics |= {"aajr/budget_excess": excess, "aajr/budget_slack": slack}
            metrics["aajr/budget_violation"] = (excess - slack) / self.budget.budget
        return metrics

    def _difference_step(self, ascent: PromptAscent) -> float:
        """
        Step of finite differences as a multiple of the mean embedding norm: calibrated once, and kept in checkpoints.
        """
        numbers = self.memory.numbers
        if "difference_step" not in numbers:
            average = functools.partial(self.accelerator.reduce, reduction="mean")
            found = calibrate(self.args, ascent, self._exact_is_valid, average)
            error = found["difference_error"]
            if not math.isfinite(error):  # this batch does not allow a calibration
                return found["difference_step"]
            numbers.update(found)
            self._announce(
                f"The step of finite differences is {found['difference_step']:.1e} times the mean embedding norm",
                f"relative error {error:.1e} {found['against']}",
                logging.WARNING if error > _LARGE_ERROR else logging.INFO,
            )
        return numbers["difference_step"]
