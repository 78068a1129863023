"""`AAJRTrainer`: TRL's `SFTTrainer` with an adversary on the prompt's embeddings and a penalty along its directions."""

from __future__ import annotations

import functools

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import logging
from trl import SFTTrainer

from .batch import EXTRA_COLUMNS, AgentBatch
from .config import AAJRConfig
from .data import AgentCollator, add_agent_columns, check_examples
from .mixin import AAJRMixin
from .system_losses import ActionLoss, token_nll

logger = logging.get_logger(__name__)


class AAJRTrainer(AAJRMixin, SFTTrainer):
    """
    Trainer for Adversarially-Aligned Jacobian Regularization (AAJR).

    Minimises, over examples, `g(delta_K) + lambda R` plus `clean_loss_weight` times `g(0)` (equation 21 of arXiv
    2603.04378): the system loss g under the perturbation of the prompt's embeddings that K steps of projected gradient
    ascent find, and the mean squared amplification R of the policy's logits along exactly those ascent directions
    (equation 20). With `epsilon = 0` and `regularizer_lambda = 0` it is [`~trl.SFTTrainer`].

    Takes the arguments of [`~trl.SFTTrainer`], with an [`AAJRConfig`]. Evaluation (`eval_loss`) is that of `SFTTrainer`,
    without an adversary; for the worst case see `aajr evaluate`.

    Metrics, per log interval: `aajr/clean_loss`, `aajr/adversarial_loss` (means of `g(0)` and `g(delta_K)`),
    `aajr/penalty` (mean R, before lambda), `aajr/amplification` (mean `||J u_t||` with the regularizer `aajr`; the secant
    `||z_{t+1} - z_t|| / ||delta_{t+1} - delta_t||` of the logits with the others), `aajr/delta_norm`,
    `aajr/embedding_norm`, `aajr/boundary_fraction` (examples whose perturbation ends on the ball's boundary),
    `aajr/monotone_fraction` (steps that did not lower the loss), `aajr/effective_smoothness`, `aajr/step_size_bound`; of every
    step, before clipping, `aajr/gradient_norm` and `aajr/gradient_norm_squared` (means, from which their variance follows).

    Raises:
        ValueError: for settings or data that cannot be trained on, before training starts where that is possible.
        FloatingPointError: when a loss, a penalty or a gradient is not finite, before the weights are updated.
    """

    _tag_names = ["trl", "sft", "aajr"]
    _config_class = AAJRConfig

    def __init__(self, model: str | nn.Module, args: AAJRConfig | None = None, *positional, **kwargs):
        args = self._configure(model, args, kwargs)
        super().__init__(model, args, *positional, **kwargs)
        self.data_collator = AgentCollator(self.data_collator)
        self._check()

    def _check_support(self) -> None:
        super()._check_support()
        if self._is_vision_dataset:
            raise ValueError("AAJR perturbs text embeddings alone: train on a dataset without images.")
        if self.compute_loss_func is not None:
            raise ValueError("`compute_loss_func` is not used by AAJR: set `system_loss` instead.")

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        names = dataset.column_names or list(next(iter(dataset)))
        observation = args.is_active and args.perturbed_tokens == "observation"
        candidates = args.is_active and args.system_loss == "expected_cost"
        if dataset_name == "train" and (observation or candidates) and "input_ids" not in names:
            dataset = add_agent_columns(
                dataset,
                self._tokenizer,
                observation=observation,
                candidates=candidates,
                chat_template=self.chat_template,
            )
        given = dataset
        dataset = super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        if dataset_name == "train" and args.is_active and isinstance(dataset, Dataset):
            if len(dataset) < len(given):
                logger.warning(
                    f"{len(given) - len(dataset)} of {len(given)} training examples were dropped: `max_length` = "
                    f"{args.max_length} leaves nothing of their completions."
                )
            check_examples(dataset, args.perturbed_tokens)
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *EXTRA_COLUMNS]))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._is_adversarial:
            inputs = {name: value for name, value in inputs.items() if name not in EXTRA_COLUMNS}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _system_loss(self, inputs, num_items) -> ActionLoss:
        batch = AgentBatch.from_inputs(inputs, self.args.perturbed_tokens)
        mean = functools.partial(self._normalised, batch=batch, num_items=num_items)
        return ActionLoss(self.args.system_loss, batch, mean)

    def _normalised(
        self, logits: Tensor, losses: Tensor, *, batch: AgentBatch, num_items: Tensor | int | None
    ) -> Tensor:
        """The batch's system loss: tokens are averaged as TRL does, costs over examples."""
        if self.args.system_loss != "nll":
            return losses.mean() / self._accumulation(num_items)
        count = batch.action_mask.sum() if num_items is None else torch.as_tensor(num_items)
        loss = token_nll(logits, batch).sum() / count.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss
