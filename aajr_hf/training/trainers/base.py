"""The adversary and the penalty as a mixin for any of TRL's trainers, whatever its loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..._compat.trl import count_tokens, recorded
from ..adversary.ascent import PromptAscent, ascend
from ..data.batch import EXTRA_COLUMNS
from ..policy.monitoring import ascent_metrics
from ..policy.system_losses import SystemLoss
from ..runs.checkpoints import CheckpointMixin
from ..runs.ema import AverageMixin
from ..runs.nonfinite import FiniteMixin
from ..runs.overfitting import OverfittingMixin
from ..runs.rollback import RollbackMixin
from ..runs.step_metrics import mean_over_processes
from ..sharing.hub import HubMixin
from ..sharing.model_card import CITATION
from .nuisance import NuisanceMixin
from .penalty import AttackedBatch, PenaltyMixin
from .preparation import PreparationMixin
from .probe import ProbeMixin

_MUST_BE_FINITE = ("loss", "aajr/clean_loss", "aajr/adversarial_loss", "aajr/delta_norm", "aajr/penalty")


class AAJRMixin(
    PenaltyMixin,
    PreparationMixin,
    NuisanceMixin,
    ProbeMixin,
    OverfittingMixin,
    RollbackMixin,
    AverageMixin,
    CheckpointMixin,
    FiniteMixin,
    HubMixin,
):
    """
    Mixin for a TRL trainer of language models: an adversary on the prompt's embeddings, and a penalty along its
    directions.

    Minimises the mean over examples of `g(delta_K) + lambda R` plus `clean_loss_weight` times `g(0)` (equation 21 of
    arXiv 2603.04378), with `g(delta_K)` times `adversarial_loss_weight`. A subclass defines the system loss g ([`_system_loss`]) and the class of its configuration
    (`_config_class`), and calls [`_resolved`] before and [`_set_up`] after TRL's own `__init__`. In evaluation, and if
    the configuration asks for no adversary and no penalty, the loss is the loss of TRL's trainer.
    """

    _name = "AAJR"
    _paper = {
        "title": "Adversarially-Aligned Jacobian Regularization",
        "id": "2603.04378",
        "citation": CITATION,
    }

    def _system_loss(self, inputs: dict[str, Any], num_items: Tensor | int | None) -> SystemLoss:
        """Return the loss of one micro-batch that the adversary raises and training lowers."""
        raise NotImplementedError

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *EXTRA_COLUMNS]))

    # One micro-batch

    @property
    def _is_adversarial(self) -> bool:
        """Whether the loss differs from the loss of TRL's trainer."""
        return self.args.is_active and self.model.training

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._is_adversarial:
            inputs = {name: value for name, value in inputs.items() if name not in EXTRA_COLUMNS}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise ValueError(
                "`return_outputs` must be false while training, because the outputs would belong to perturbed prompts."
            )
        system = self._system_loss(inputs, num_items_in_batch)
        # One seed for all passes of the micro-batch, drawn from the RNG that a resumed run restores.
        seed = int(torch.randint(2**31, ())) if self._dropout else None
        ascent = self._ascend(model, system, seed)
        # Before the outer passes, whose graphs stay until the backward pass.
        penalised = self._penalise(ascent) if self._penalised_now and self._one_by_one else None
        attacked = self._outer_passes(model, system, ascent, seed)
        metrics = self._ascent_metrics(system, attacked)
        loss, found = self._outer_loss(system, attacked, num_items_in_batch)
        metrics |= found
        if self.args.penalty_active:
            terms, found = self._penalty_terms(attacked, penalised, num_items_in_batch)
            loss, metrics = sum(terms, loss), metrics | found
        at_zero = self.args.ascent_start == "zero" or attacked.clean is None
        metrics |= system.metrics(attacked.ascent.recorder.clean if at_zero else attacked.clean.detach())
        self._step_metrics.add({"loss": loss} | metrics)
        # DeepSpeed takes its step inside the backward pass: a value that is not finite must be found before.
        if self.is_deepspeed_enabled and self.accelerator.sync_gradients:
            self.settle_metrics()
        return loss

    def _ascend(self, model: nn.Module, system: SystemLoss, seed: int | None) -> PromptAscent:
        """Run the ascent."""
        start_seed = None
        if self.args.ascent_start == "random":
            # From the RNG that a resumed run restores; each process draws other points.
            start_seed = int(torch.randint(2**31, ())) + self.draw_offset
        return ascend(
            self.args,
            system.policy(self.accelerator.unwrap_model(model), seed),
            system,
            epsilon_fraction=self.schedules.epsilon_fraction,
            keep_products=self._penalised_now and self._shares_forwards,
            steps=self.schedules.ascent_steps,
            penalised=self._penalised_now,
            start_seed=start_seed,
        )

    def _outer_passes(
        self, model: nn.Module, system: SystemLoss, ascent: PromptAscent, seed: int | None
    ) -> AttackedBatch:
        """Run the passes whose losses are minimised."""
        # Call the model through its wrapper, which synchronises gradients.
        if self.aux_loss_enabled:
            logits, outputs = system.policy(model, seed, output_router_logits=True).with_outputs(ascent.delta)
            aux_loss = outputs.aux_loss
        else:
            logits, aux_loss = system.policy(model, seed)(ascent.delta), None
        losses = system.trained_at(ascent.delta, logits).per_example(logits)
        ascent.finish(logits, losses)
        clean = None
        if self.args.clean_loss_weight > 0:
            clean = logits if ascent.delta is None else ascent.policy()
        return AttackedBatch(ascent, logits, losses, clean, aux_loss)

    def _outer_loss(
        self, system: SystemLoss, attacked: AttackedBatch, num_items: Tensor | int | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Return `g(delta_K)` and `g(0)`, each times its weight, plus the router's loss, averaged as TRL does, and their
        metrics.
        """
        loss, metrics, clean = torch.zeros((), device=attacked.losses.device), {}, attacked.clean
        if self.args.adversarial_loss_weight > 0:
            loss = loss + self.args.adversarial_loss_weight * system.mean(attacked.logits, attacked.losses)
        if clean is not None:
            losses = system.trained_at(None, clean).per_example(clean)
            loss = loss + self.args.clean_loss_weight * system.mean(clean, losses)
        if attacked.aux_loss is not None:
            loss = loss + self.router_aux_loss_coef * attacked.aux_loss / self._accumulation(num_items)
            metrics["aux_loss"] = attacked.aux_loss
        if self.args.follows_success:
            metrics["aajr/adversarial_success"] = system.success(attacked.logits).float().mean()
        return loss, metrics

    # Normalisation and metrics

    def _accumulation(self, num_items: Tensor | int | None) -> int:
        """Divisor of a mean over examples: with `num_items`, `Trainer` leaves gradient accumulation to the loss."""
        return 1 if num_items is None else self.current_gradient_accumulation_steps

    def _ascent_metrics(self, system: SystemLoss, attacked: AttackedBatch) -> dict[str, Tensor]:
        """Metrics of the inner ascent."""
        ascent, losses = attacked.ascent, attacked.losses
        metrics = {"aajr/embedding_norm": ascent.scale.mean()}
        if ascent.trajectory is None:
            return metrics | {"aajr/clean_loss": losses.mean(), "aajr/adversarial_loss": losses.mean()}
        loss_smoothness, step_rule = system.smoothness(), self.args.ascent_step_rule
        metrics |= ascent_metrics(
            ascent.trajectory, ascent.recorder, ascent.ball, system.batch, loss_smoothness, step_rule
        )
        if self.args.ascent_start == "random" and attacked.clean is not None:
            metrics["aajr/clean_loss"] = system.per_example(attacked.clean.detach()).mean()
        # With the regularizer aajr, the penalty adds this metric.
        if not (self.args.penalty_active and self.args.regularizer == "aajr"):
            metrics["aajr/amplification"] = metrics["aajr/secant_amplification"]
        return metrics

    def settle_metrics(self) -> None:
        """
        Process the metrics of an optimizer step at its end, before the weights change: average them over processes,
        keep them for the next log, and pass them to the schedules and the budget. If a loss is not finite, stop the
        run or skip the step.
        """
        penalties = []
        for processes in self._step_metrics.gather(self.accelerator):
            values = mean_over_processes(processes)
            losses = {name: values[name] for name in _MUST_BE_FINITE if name in values}
            if not self.check_finite(losses, processes):
                continue
            del values["loss"]  # Trainer logs it
            if "tokens" in values:  # TRL logs the sum over all processes and steps
                count_tokens(self, round(values.pop("tokens") * len(processes)))
            for name, value in values.items():
                recorded(self)[name].append(value)
            if self.accelerator.is_main_process:
                self._balance.check(values, self._lambda if self.args.penalty_active else 0.0)
            if self.args.follows_success:
                self.schedules.observe(values["aajr/adversarial_success"])
            if self.budget is not None and "aajr/budget_excess" in values:
                seen = ("aajr/budget_excess", "aajr/budget_slack", "aajr/loss_magnitude")
                self.budget.observe(*(values[name] for name in seen))
                recorded(self)["aajr/lambda"].append(self._lambda)
            if self.penalty_scale is not None and "aajr/penalty" in values:
                penalties.append(values["aajr/penalty"])
                recorded(self)["aajr/lambda"].append(self._lambda)
        if penalties:
            self.penalty_scale.observe(penalties)

    def _get_grad_norm(self, model, grad_norm=None):
        self.settle_metrics()
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if self._norms_unchecked and self.args.is_active and self.accelerator.num_processes > 1:
            self._norms_unchecked = False
            norms = self.accelerator.gather(torch.tensor([float(grad_norm)], device=self.accelerator.device))
            if norms.max() > 1.001 * norms.min():
                raise RuntimeError(
                    f"Gradients were not synchronised between processes (norms {norms.tolist()}), so the copies of "
                    "the model would differ: please report this with the output of `aajr env`."
                )
        # The norm is None before DeepSpeed has taken a step, and infinite if fp16 overflows, which the loss scaler
        # handles.
        if grad_norm is not None and math.isfinite(norm := float(grad_norm)):
            recorded(self)["aajr/gradient_norm"].append(norm)
            recorded(self)["aajr/gradient_norm_squared"].append(norm**2)
        return grad_norm
