"""`AAJRTrainer`: TRL's `SFTTrainer` with an adversary on the prompt's embeddings and a penalty along its directions."""

from __future__ import annotations

import copy
import functools
import inspect

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from trl import SFTTrainer, is_conversational

from ..config.sft import AAJRConfig
from ..data.batch import AgentBatch
from ..data.collation import AgentCollator, add_agent_columns, check_examples, column_names, cut_columns
from ..data.cuts import only_actions
from ..data.given_rows import in_formats_of_trl
from ..data.long_tail import with_classes, with_radius_factors
from ..data.packing import pack
from ..data.roles import OBSERVED_ROLES
from ..data.row_changes import RowChanges
from ..data.system_prompts import warn_of_added
from ..data.template import Template
from ..data.triggers import read_triggers
from ..models.generation_marks import check_generation_marks
from ..models.loading import text_tokenizer
from ..models.teacher import load_teacher
from ..policy.distillation import Distillation
from ..policy.layers import decoder_layers
from ..policy.row_layout import packing_failure
from ..policy.system_losses import ActionLoss, token_nll
from .base import AAJRMixin

# The arguments of SFTTrainer after `model` and `args`, in their order.
_ARGUMENTS = list(inspect.signature(SFTTrainer.__init__).parameters)[3:]


class AAJRTrainer(AAJRMixin, SFTTrainer):
    """
    Trainer for Adversarially-Aligned Jacobian Regularization (AAJR).

    Minimises the mean over examples of `g(delta_K) + lambda R + clean_loss_weight g(0)` (equation 21 of arXiv 2603.04378); the first
    term has a weight, too, `adversarial_loss_weight`. Here g is
    the system loss, `delta_K` the perturbation of the prompt's embeddings after K steps of projected gradient ascent on g, and R
    the mean squared amplification of the policy's logits along these ascent directions (equation 20). With `epsilon = 0` and
    `regularizer_lambda = 0`, the trainer behaves like [`~trl.SFTTrainer`].

    Takes the arguments of [`~trl.SFTTrainer`], with an [`AAJRConfig`], and `skip_invalid_rows`: whether rows that cannot
    be trained on as they are ([`read_dataset`]) are left out instead of an error. `eval_loss` is the loss of `SFTTrainer`, without an
    adversary; `aajr evaluate` measures the worst case.

    Metrics of each log interval:

    - `aajr/clean_loss`, `aajr/adversarial_loss`: means of `g(0)` and of `g(delta_K)`.
    - `aajr/penalty`: mean R, before it is multiplied by lambda.
    - `aajr/amplification`: mean `||J u_t||` at the points of the penalty; with regularizers other than `aajr`, the mean along the
      steps instead (`aajr/secant_amplification`).
    - `aajr/delta_norm`, `aajr/embedding_norm`: mean norms of `delta_K` and of the perturbed embeddings.
    - `aajr/gradient_norm`, `aajr/gradient_norm_squared`: means over all steps, before clipping; the variance follows from them.

    With a relative `lambda_mode`: `aajr/lambda`, the weight of R in force, lambda over the running mean of R.

    With an `amplification_budget` gamma, for the steps in which the penalty is evaluated:

    - `aajr/lambda`: the weight in force: the product of schedule, multiplier and augmentation.
    - `aajr/budget_violation`: mean `||J u_t|| / gamma - 1`, below 0 within the budget. With a spectral regularizer, here and below
      the largest singular value that it penalises stands in place of `||J u_t||`.
    - `aajr/budget_excess`, `aajr/budget_slack`: means of `max(||J u_t|| - gamma, 0)` and of `max(gamma - ||J u_t||, 0)`. An example
      whose loss has no gradient has no direction; it counts as 0 in all three.
    - `aajr/loss_magnitude`: mean `|g(delta_K)|`.

    With a `sensitivity_floor`: `aajr/sensitivity`, mean `||J v||` along directions between observations whose right answers differ,
    and `aajr/sensitivity_shortfall`, mean `max(floor - ||J v||, 0)^2`; an example without such a neighbour counts as 0 in the second.

    With a `rollback_tolerance`: `aajr/probe_loss`, the last measured loss of the probe under attack, and `aajr/rollbacks`, their number.

    With an `overfitting_interval`: `aajr/probe_success`, `aajr/probe_success_10_steps`, the shares of right answers of the probe under
    the training's own ascent and under ten steps, and `aajr/probe_direction_cosine`.

    With `on_nonfinite` skip, after a step was left out: `aajr/skipped_steps`, their number so far.

    With a curriculum: `aajr/adversarial_success`, the share of right answers under attack.

    Metrics of the inner ascent, means over examples, from numbers that the ascent computes anyway (Theorems 2 and 3):

    - `aajr/boundary_fraction`, `aajr/boundary_step_fraction`: fractions of the examples whose `delta_K`, and of the steps whose
      end, lies at the ball's boundary (with one ball per token: fraction of the tokens).
    - `aajr/monotone_fraction`: fraction of the steps that did not lower the loss.
    - `aajr/direction_cosine`: cosine of the first two directions u_0 and u_1; a fall towards 0 announces that the agent overfits to
      its adversary (GradAlign). Absent with one step.
    - `aajr/secant_amplification`: `||z_{t+1} - z_t|| / ||delta_{t+1} - delta_t||` of the logits, which is `||J v||` along the steps.
    - `aajr/curvature`, `aajr/largest_curvature`: kappa_t, the mean curvature of g on the segment between two gradients, and
      its largest absolute value along the ascent. Absent with one step, because the last step has no gradient at its end.
    - `aajr/loss_smoothness`: L_loss, a bound on the curvature of g as a function of the logits.
    - `aajr/residual_curvature`: C, estimated as the excess of `max_t |kappa_t|` over `L_loss max_t ||J v||^2`.
    - `aajr/effective_smoothness`, `aajr/step_size_bound`: `L_eff = L_loss max_t ||J v||^2 + C`, and the reciprocal of its mean.
    - `aajr/within_bound_fraction`: fraction of the steps with `eta <= 1 / L_eff`. Here eta is the step size with the rule
      `gradient`, the step size over `||grad g||` with `normalized`, and `||d||^2 / <grad g, d>` for the step d with `sign`
      ([`gradient_step_sizes`]).

    Curvatures and secants are means over segments and may miss larger values between the points, so L_eff is an estimate, not a
    bound.

    Raises:
        ValueError: if settings or data cannot be trained on; before training starts where possible.
        FloatingPointError: if a loss, a penalty or a gradient is not finite; before the weights are updated.
    """

    _tag_names = ["trl", "sft", "aajr"]
    _config_class = AAJRConfig

    def __init__(
        self,
        model: str | nn.Module,
        args: AAJRConfig | None = None,
        *positional,
        skip_invalid_rows: bool = False,
        **kwargs,
    ):
        self._skip_invalid_rows = skip_invalid_rows
        model, args, kwargs = self._resolved(model, args, kwargs)
        name = model if isinstance(model, str) else model.config.name_or_path
        kwargs |= dict(zip(_ARGUMENTS, positional, strict=False))
        check_generation_marks(args, name, kwargs.get("processing_class"))
        if (args.dataset_kwargs or {}).get("skip_prepare_dataset"):
            _check_prepared(kwargs.get("train_dataset"))
        elif kwargs.get("formatting_func") is None:
            kwargs["train_dataset"] = self._given(kwargs.get("train_dataset"), args, "train")
            kwargs["eval_dataset"] = self._given(kwargs.get("eval_dataset"), args, "eval")
        super().__init__(model, args, **kwargs)
        self.data_collator = AgentCollator(self.data_collator)
        self._set_up()
        self.teacher = None
        if self.args.teacher is not None:
            moved, device = self.args.teacher_view == "perturbed", self.accelerator.device
            tokenizer = text_tokenizer(self.processing_class)
            self.teacher = load_teacher(self.args.teacher, self.model, tokenizer, moved, device)

    def _given(self, dataset, args: AAJRConfig, name: str):
        """A dataset, or several by their names, in TRL's formats."""
        if isinstance(dataset, dict):
            return {part: self._given(rows, args, part) for part, rows in dataset.items()}
        if not isinstance(dataset, Dataset | IterableDataset):
            return dataset
        dataset, count = in_formats_of_trl(dataset, name, args.dataset_text_field, self._skip_invalid_rows)
        self.skipped_rows += count.invalid if name == "train" else 0
        return dataset

    def _check_support(self) -> None:
        super()._check_support()
        if self._is_vision_dataset:
            raise ValueError("AAJR perturbs only text embeddings: train on a dataset without images.")
        if self.compute_loss_func is not None:
            raise ValueError("`compute_loss_func` is not used by AAJR: set `system_loss` instead.")
        if self.padding_free:
            self._check_packing()
        if self.args.regularizer == "matched" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "`regularizer` matched does not work with FSDP and DeepSpeed, where all processes need equal numbers of passes: "
                "set it to another one."
            )
        if self.args.perturbed_layer > 0 and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "`perturbed_layer` is not tested with FSDP and DeepSpeed: set it to 0, or train without them."
            )
        if (layer := self.args.perturbed_layer) > 0 and layer >= (number := len(decoder_layers(self.model))):
            raise ValueError(f"`perturbed_layer` must be below the number of layers, {number}; got {layer}.")

    def _check_packing(self) -> None:
        """Raise ValueError unless the model treats documents in one row as it treats them one by one."""
        if self.args.pad_to_multiple_of is not None:
            raise ValueError(
                "`pad_to_multiple_of` does not work with `packing` and `padding_free`, whose rows have no padding: "
                "unset it."
            )
        if getattr(self.accelerator.state, "deepspeed_plugin", None) is not None:
            raise ValueError(
                "`packing` and `padding_free` are not tested with DeepSpeed: set them to false, or use FSDP2."
            )
        with self.compute_loss_context_manager():  # under autocast, which some kernels need
            reason = [packing_failure(self.model) if self.accelerator.is_main_process else None]
        if broadcast_object_list(reason)[0] is not None:
            raise ValueError(
                "This model cannot separate the documents of one row: set `packing` and `padding_free` to false, or "
                f"try another `attn_implementation`. Reason: {reason[0]}."
            )

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if formatting_func is None:  # which reads the rows itself
            template = Template(processing_class, self.chat_template)
            how = {"only_completions": self.completion_only_loss}
            if dataset_name == "train":
                how["changes"] = row_changes(args)
            dataset = self._read_rows(dataset, template, args, dataset_name, **how)
        elif row_changes(args):
            raise ValueError(
                "`triggers` and `mask_share` do not work with a `formatting_func`: leave out one of them."
            )
        is_perturbed = dataset_name == "train" and args.is_active
        if is_perturbed:
            if args.needs_variants:
                dataset = self._take_variants(dataset, args.seed)
            if by_class := args.long_tail_alpha > 0:
                dataset = with_classes(dataset, args.class_column)
            dataset = self._with_agent_columns(dataset, text_tokenizer(processing_class), args)
        # First without a length limit: what it cuts off is counted, and what is no action is no reason to keep a row.
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        dataset = super()._prepare_dataset(dataset, processing_class, whole, False, formatting_func, dataset_name)
        dataset, pack_here = only_actions(dataset), packing and is_perturbed
        dataset = self._with_cuts(dataset, args, dataset_name, drops=pack_here or not packing)
        dataset = super()._prepare_dataset(
            dataset, processing_class, args, packing and not pack_here, None, dataset_name
        )
        if not is_perturbed:
            return dataset
        dataset = cut_columns(dataset, args.truncation_mode == "keep_end")
        if by_class:
            dataset = with_radius_factors(dataset, args.long_tail_alpha)
        if isinstance(dataset, Dataset):
            check_examples(dataset, args.perturbed_tokens, self._first_row)
        return pack(dataset, args) if pack_here else dataset

    def _with_agent_columns(self, dataset, tokenizer, args):
        """The training data with the columns that AAJR needs beside TRL's."""
        candidates = args.system_loss == "expected_cost"
        names = column_names(dataset)
        by_role = args.perturbed_tokens in OBSERVED_ROLES
        if by_role and "input_ids" in names and "observation_mask" not in names:
            raise ValueError(
                f"`perturbed_tokens={args.perturbed_tokens}` needs messages, but the examples are tokens: give "
                "messages, or set it to prompt."
            )
        if args.perturbed_tokens == "prompt" and isinstance(dataset, Dataset) and is_conversational(dataset[0]):
            warn_of_added(Template(tokenizer, self.chat_template))
        if not (by_role or candidates) or "input_ids" in names:
            return dataset
        options = {"perturbed_tokens": args.perturbed_tokens, "candidates": candidates}
        return add_agent_columns(
            dataset, tokenizer, **options, chat_template=self.chat_template, first=self._first_row
        )

    def _system_loss(self, inputs, num_items) -> ActionLoss:
        batch = AgentBatch.from_inputs(inputs, self.args.perturbed_tokens)
        mean = functools.partial(self._normalised, batch=batch, num_items=num_items)
        if self.teacher is None:
            system = ActionLoss(self.args.system_loss, batch, mean)
        else:
            moved, floor = self.args.teacher_view == "perturbed", self.args.teacher_entropy_floor
            system = Distillation(self.teacher, batch, mean, moved, floor)
        system.layer = self.args.perturbed_layer
        return system

    def _normalised(
        self, logits: Tensor, losses: Tensor, *, batch: AgentBatch, num_items: Tensor | int | None
    ) -> Tensor:
        """The batch's system loss: token losses are averaged as TRL does, costs over examples."""
        if self.args.system_loss == "expected_cost":
            return losses.mean() / self._accumulation(num_items)
        count = batch.action_mask.sum() if num_items is None else torch.as_tensor(num_items)
        if self.args.system_loss == "nll":
            total = token_nll(logits, batch).sum()
        else:
            total = (losses * batch.action_mask.sum(dim=1)).sum()
        loss = total / count.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss


def _check_prepared(dataset: Dataset | IterableDataset | None) -> None:
    """Raise ValueError if data that TRL is to take as they are are no tokens."""
    if dataset is not None and "input_ids" not in column_names(dataset):
        raise ValueError(
            "`dataset_kwargs`: with `skip_prepare_dataset`, the data must be tokens (`input_ids` and `labels`), but "
            f"they have {', '.join(column_names(dataset))}: leave `skip_prepare_dataset` out."
        )


def row_changes(args: AAJRConfig) -> RowChanges:
    """
    Return what is done to the training rows.

    Raises:
        ValueError: if the file of triggers cannot be read; names the field.
    """
    triggers = ()
    if args.triggers is not None and args.trigger_share > 0:
        try:
            triggers = tuple(trigger.text for trigger in read_triggers(args.triggers))
        except ValueError as error:
            raise ValueError(f"`triggers`: {error}") from error
    return RowChanges(triggers, args.trigger_share, args.mask_share, args.mask_marker, args.seed)
