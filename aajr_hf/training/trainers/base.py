"""What every trainer with an adversary and a penalty does, whichever loss it trains: mixed into one of TRL's trainers."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft import PeftType
from torch import Tensor, nn
from transformers import logging

from ..._compat.transformers import CHECKPOINTING
from ..._compat.trl import count_tokens, recorded
from ..adversary.ascent import PromptAscent, ascend
from ..adversary.budget import AmplificationBudget
from ..adversary.estimators import calibrate, no_forward_mode
from ..adversary.penalties import penalty
from ..adversary.penalty_sampling import control_variate, draw_points
from ..adversary.schedules import Schedules
from ..config.sft import AAJRConfigMixin
from ..models.adapters import adapter_config
from ..models.loading import text_tokenizer
from ..policy.monitoring import ascent_metrics
from ..policy.policy import check_text_only, fixed_seed, uses_dropout
from ..policy.system_losses import SystemLoss
from ..runs.checkpoints import CheckpointMixin
from ..runs.ema import AverageMixin
from ..runs.nonfinite import FiniteMixin
from ..sharing.hub import HubMixin
from ..sharing.model_card import CITATION

logger = logging.get_logger(__name__)

# Of finite differences: beyond it the penalty's value is no longer that of the formula, and users should know.
_LARGE_ERROR = 0.1
_MUST_BE_FINITE = ("loss", "aajr/clean_loss", "aajr/adversarial_loss", "aajr/delta_norm", "aajr/penalty")


class AAJRMixin(AverageMixin, CheckpointMixin, FiniteMixin, HubMixin):
    """
    For a TRL trainer of language models: an adversary on the prompt's embeddings, and a penalty along its directions.

    Minimises, over examples, `g(delta_K) + lambda R` plus `clean_loss_weight` times `g(0)` (equation 21 of arXiv
    2603.04378). A subclass says what the system loss g is ([`_system_loss`]), names its configuration (`_config_class`), and
    calls [`_configure`] before, [`_check`] after TRL's own `__init__`. Where neither an adversary nor a penalty is asked for,
    and in evaluation, the loss is that of TRL's trainer.
    """

    _config_class: type[AAJRConfigMixin]
    _name = "AAJR"
    _paper = {
        "title": "Adversarially-Aligned Jacobian Regularization",
        "id": "2603.04378",
        "citation": CITATION,
    }

    def _system_loss(self, inputs: dict[str, Any], num_items: Tensor | int | None) -> SystemLoss:
        """What the adversary raises and training lowers, of one micro-batch."""
        raise NotImplementedError

    # Before training

    def _configure(
        self, model: str | nn.Module, args: AAJRConfigMixin | None, kwargs: dict[str, Any]
    ) -> AAJRConfigMixin:
        """The trainer's arguments, or their defaults; puts the adapter that they name into `kwargs`."""
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = self._config_class(f"{name.rstrip('/').split('/')[-1]}-AAJR")
        if not isinstance(args, self._config_class):
            raise TypeError(f"`args` must be an {self._config_class.__name__}, got {type(args).__name__}.")
        peft_config = adapter_config(args, model)
        if peft_config is not None:
            if kwargs.get("peft_config") is not None:
                raise ValueError("Give either `adapter` or `peft_config`, not both.")
            kwargs["peft_config"] = peft_config
        return args

    def _check(self) -> None:
        """Whether model, data and arguments fit together; the choice of the estimator."""
        args = self.args
        self._check_vocabulary()
        if args.freeze_embeddings:
            self.model.get_input_embeddings().weight.requires_grad_(False)
        self._dropout = uses_dropout(self.model)
        if args.on_nonfinite == "skip" and self.is_deepspeed_enabled:
            raise ValueError("DeepSpeed takes its steps itself: `on_nonfinite` must be stop with it.")
        self._begin_average()
        if args.is_active:
            self._check_support()
        self.estimator = self._choose_estimator() if args.penalty_active else None
        self.schedules = Schedules(args, lambda: self.state, lambda: self.memory)
        self.add_callback(self.schedules)
        self.budget = None
        if args.penalty_active and args.amplification_budget is not None:
            self.budget = AmplificationBudget(
                args.amplification_budget,
                args.regularizer_lambda,
                lambda: self.memory,
                lambda: self.schedules.strength == 1,
            )
            self.add_callback(self.budget)
        self._norms_unchecked = True
        self.draw_offset = self.accelerator.process_index

    def _check_support(self) -> None:
        """Raise ValueError for what cannot be trained with an adversary or a penalty."""
        check_text_only(self.model)
        if is_peft_model(self.model) and self.model.active_peft_config.is_prompt_learning:
            raise ValueError(
                "Adapters that learn a prompt replace the embeddings that AAJR perturbs: set `adapter` to lora instead."
            )
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version != 2:
            raise ValueError("AAJR trains under FSDP2: set `fsdp_version` to 2 in the Accelerate configuration.")
        if self.args.ascent_step_size == "auto" and (plugin is not None or self.is_deepspeed_enabled):
            raise ValueError(
                "`ascent_step_size=auto` evaluates the model as often as each process's batch needs, and processes that "
                "share parameters must do so equally often: give it a number, or train without FSDP and DeepSpeed."
            )
        if self.args.penalty_fraction < 1 and self._dropout:
            raise ValueError(
                "`penalty_fraction` below 1 needs a model without dropout, whose masks depend on the batch: set it to 1, "
                "or the model's (and `lora_dropout`) to 0."
            )

    def _check_vocabulary(self) -> None:
        largest = max(text_tokenizer(self.processing_class).get_vocab().values(), default=0)
        rows = self.model.get_input_embeddings().num_embeddings
        if largest >= rows:
            raise ValueError(
                f"The tokenizer does not match the model: it has tokens up to {largest}, and the model {rows} embeddings."
            )

    def _choose_estimator(self) -> str:
        """The estimator of the Jacobian products: the one asked for, or the exact one wherever it is sound."""
        wanted = self.args.jacobian_estimator
        reason = no_forward_mode(self.model, self.accelerator, self.compute_loss_context_manager)
        self._exact_is_sound = reason is None
        if wanted == "jvp" and reason is not None:
            raise ValueError(
                f"`jacobian_estimator=jvp` does not work here: set it to auto or finite_difference. Reason: {reason}."
            )
        if wanted == "finite_difference" or reason is not None:
            why = f"torch.func.jvp fails: {reason}" if wanted == "auto" else "as `jacobian_estimator` says"
            self._announce("The Jacobian is estimated by central finite differences", why, logging.WARNING)
            return "finite_difference"
        self._announce("The Jacobian products are exact", "torch.func.jvp works with this model", logging.INFO)
        return "jvp"

    @property
    def _shares_forwards(self) -> bool:
        """
        Whether the exact products start from what the ascent has computed at the same points: where they are evaluated
        for all of them and all examples, and where layers keep what they compute and weights stay where they are.
        """
        args = self.args
        everywhere = args.regularizer == "aajr" and args.penalty_trajectory == "all" and args.penalty_fraction == 1
        at_once = args.ascent_step_size != "auto"  # which evaluates some examples apart
        adapter = self.model.active_peft_config if is_peft_model(self.model) else None
        # Other adapters make their weights anew in each forward.
        kept = adapter is None or adapter.peft_type == PeftType.LORA and not adapter.use_dora
        stays = kept and not self.is_fsdp_enabled
        return everywhere and at_once and stays and self.estimator == "jvp" and not getattr(args, CHECKPOINTING)

    def _announce(self, choice: str, why: str, level: int) -> None:
        if self.accelerator.is_main_process:
            logger.log(level, f"{choice} ({why}).")

    # One micro-batch

    @property
    def _is_adversarial(self) -> bool:
        """Whether the loss is another than that of TRL's trainer."""
        return self.args.is_active and self.model.training

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._is_adversarial:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise ValueError("AAJR returns no outputs while training: they would be those of perturbed prompts.")
        system = self._system_loss(inputs, num_items_in_batch)
        # One seed for all passes of the micro-batch, drawn from the RNG that a resumed run restores.
        seed = int(torch.randint(2**31, ())) if self._dropout else None
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        policy = system.policy(self.accelerator.unwrap_model(model), seed)
        outer = system.policy(model, seed, **router)

        penalised = self.args.penalty_active and self.state.global_step % self.args.penalty_interval == 0
        keep_products = penalised and self._shares_forwards
        schedules = self.schedules
        ascent = ascend(self.args, policy, system, schedules.epsilon, keep_products, schedules.ascent_steps, penalised)
        delta = ascent.delta
        logits = outer(delta)
        ascent.recorder.propose(logits)
        ascent.recorder.accept()
        losses = system.per_example(logits)
        loss = system.mean(logits, losses)
        clean = None
        if self.args.clean_loss_weight > 0:
            clean = logits if delta is None else policy()
            loss = loss + self.args.clean_loss_weight * system.mean(clean, system.per_example(clean))
        if self.aux_loss_enabled:
            aux_loss = outer.outputs.aux_loss
            loss = loss + self.router_aux_loss_coef * aux_loss / self._accumulation(num_items_in_batch)

        metrics = {"aajr/embedding_norm": ascent.scale.mean()}
        if self.aux_loss_enabled:
            metrics["aux_loss"] = aux_loss
        if ascent.trajectory is None:
            metrics |= {"aajr/clean_loss": losses.mean(), "aajr/adversarial_loss": losses.mean()}
        else:
            ascent.trajectory.losses[-1] = losses.detach()
            loss_smoothness, step_rule = system.smoothness(), self.args.ascent_step_rule
            metrics |= ascent_metrics(
                ascent.trajectory, ascent.recorder, ascent.ball, system.batch, loss_smoothness, step_rule
            )
            is_exact = self.args.penalty_active and self.args.regularizer == "aajr"
            if not is_exact:  # else it is there where the penalty is evaluated
                metrics["aajr/amplification"] = metrics["aajr/secant_amplification"]
        weight = schedules.strength * (self.args.regularizer_lambda if self.budget is None else self.budget.weight)
        strength = weight / self._accumulation(num_items_in_batch)
        known = control_variate(self.args, ascent, logits, clean)
        if known is not None:
            loss = loss + strength * known.mean()
        if penalised:
            rest, values = self._penalise(ascent, known)
            loss = loss + strength * self.args.penalty_interval * rest
            metrics |= values
        if self.budget is not None:
            metrics["aajr/loss_magnitude"] = losses.abs().mean()
        if self.args.follows_success:
            metrics["aajr/adversarial_success"] = system.success(logits).float().mean()
        values = self._record(loss, metrics | system.metrics(ascent.recorder.clean))
        if values is not None:
            self._steer(values, weight if penalised else None)
        return loss

    def _steer(self, values: dict[str, float], weight: float | None) -> None:
        """Let schedules and budget see what a micro-batch of all processes gave; `weight` is lambda, where it was penalised."""
        if self.args.follows_success:
            self.schedules.observe(values["aajr/adversarial_success"])
        if self.budget is None or weight is None:
            return
        excess, slack = values["aajr/budget_excess"], values["aajr/budget_slack"]
        self.budget.observe(excess, slack, values["aajr/loss_magnitude"])
        recorded(self)["aajr/lambda"].append(weight)
        recorded(self)["aajr/budget_violation"].append((excess - slack) / self.budget.budget)

    def _penalise(self, ascent: PromptAscent, known: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """
        The mean of R over examples, or an estimate of it from some, and its metrics; of R minus what is `known` (B,)
        where that is given.
        """
        # From the RNG that a resumed run restores; each process draws other points, as its batches are others.
        seed = int(torch.randint(2**31, ())) + self.draw_offset
        points = draw_points(self.args, ascent, torch.Generator().manual_seed(seed))
        step = None if self.estimator == "jvp" else self._difference_step(points.ascent) * points.ascent.scale
        estimator = {"estimator": self.estimator, "difference_step": step}
        with fixed_seed(points.ascent.state.device, seed):  # the random directions of each process are others, too
            values, amplification = penalty(self.args, points.ascent, points.steps, **estimator)
        rest = (values if known is None else values - known[points.rows]).mean()
        metrics = {"aajr/penalty": rest if known is None else known.mean() + rest}
        if amplification is not None:
            metrics["aajr/amplification"] = amplification.mean(dim=0).mean()
            if self.budget is not None:
                beyond = amplification - self.budget.budget
                # Where the loss has no gradient there is no direction, and the amplification is 0 of nothing.
                moved = points.ascent.trajectory.gradient_norms[list(points.steps)] > 0
                metrics["aajr/budget_excess"] = beyond.clamp_min(0).mean()
                metrics["aajr/budget_slack"] = ((-beyond).clamp_min(0) * moved).mean()
        return rest, metrics

    def _difference_step(self, ascent: PromptAscent) -> float:
        """The step of finite differences in norms of an embedding: calibrated once, and kept in the checkpoints."""
        if "difference_step" not in self.memory:
            average = functools.partial(self.accelerator.reduce, reduction="mean")
            found = calibrate(self.args, ascent, self._exact_is_sound, average)
            error = found["difference_error"]
            if not math.isfinite(error):  # nothing to be learnt from this batch
                return found["difference_step"]
            self.memory.update(found)
            self._announce(
                f"Finite differences: step {found['difference_step']:.1e} of an embedding's norm",
                f"relative error {error:.1e} {found['against']}",
                logging.WARNING if error > _LARGE_ERROR else logging.INFO,
            )
        return self.memory["difference_step"]

    # Normalisation and metrics

    def _accumulation(self, num_items: Tensor | int | None) -> int:
        """What a mean over examples is divided by: with `num_items`, `Trainer` leaves accumulation to the loss."""
        return 1 if num_items is None else self.current_gradient_accumulation_steps

    def _record(self, loss: Tensor, metrics: dict[str, Tensor]) -> dict[str, float] | None:
        """
        Keep a micro-batch's metrics, averaged over processes, until they are logged; returns them. Stop where one is not finite,
        or return None.
        """
        names = ("loss", *metrics)
        local = torch.stack([v.detach().float() for v in (loss, *metrics.values())])
        # One gathering and one transfer; every process sees the same numbers, and so stops at the same step.
        rows = self.accelerator.gather(local).view(-1, len(names)).cpu()
        values = dict(zip(names, rows.mean(dim=0).tolist(), strict=True))
        losses = {name: values[name] for name in _MUST_BE_FINITE if name in values}
        if not self.check_finite(losses, [dict(zip(names, row, strict=True)) for row in rows.tolist()]):
            return None
        for name in metrics:
            if name != "tokens":
                recorded(self)[name].append(values[name])
        if "tokens" in metrics:  # of all processes and steps together
            count_tokens(self, round(values["tokens"] * len(rows)))
        return values

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if self._norms_unchecked and self.args.is_active and self.accelerator.num_processes > 1:
            self._norms_unchecked = False
            norms = self.accelerator.gather(torch.tensor([float(grad_norm)], device=self.accelerator.device))
            if norms.max() > 1.001 * norms.min():
                raise RuntimeError(
                    f"Gradients differ between processes (norms {norms.tolist()}): they were not synchronised, and the "
                    "copies of the model would drift apart. Please report this with the output of `aajr env`."
                )
        # None before DeepSpeed has taken a step; infinite where fp16 overflows, which its scaler is for.
        if grad_norm is not None and math.isfinite(norm := float(grad_norm)):
            recorded(self)["aajr/gradient_norm"].append(norm)
            recorded(self)["aajr/gradient_norm_squared"].append(norm**2)
        return grad_norm
