"""`AAJRDPOTrainer`: TRL's `DPOTrainer` with an adversary on the prompt's embeddings and a penalty along its directions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from trl import DPOTrainer

from ..config.dpo import AAJRDPOConfig
from ..data.batch import AgentBatch, missing_tokens_message
from ..data.collation import PairCollator, add_pair_columns, column_names
from ..data.preferences import check_pairs
from ..data.roles import OBSERVED_ROLES
from ..data.template import Template
from ..models.loading import text_tokenizer
from ..policy.policy import AgentPolicy
from ..policy.system_losses import token_nll
from .base import AAJRMixin
from .trl_loss import TRLSystemLoss, check_trl_loss, fused_head, trl_loss


class PairPolicy:
    """
    The policy on N pairs: from one perturbation of each pair's prompt (N, L, d) to the logits of the chosen
    completion's tokens, followed by the logits of the rejected completion's tokens, (N, 2A, V).

    Args:
        rows: The policy on the N chosen and then the N rejected examples.
        batch: The pairs.
    """

    def __init__(self, rows: AgentPolicy, batch: AgentBatch):
        self.rows, self.batch = rows, batch
        self.model, self.dropout_seed = rows.model, rows.dropout_seed

    def select(self, pairs: Tensor) -> PairPolicy:
        """The same policy on some of the pairs."""
        return PairPolicy(self.rows.select(torch.cat([pairs, pairs + len(self.batch)])), self.batch.select(pairs))

    def with_cached_prefix(self) -> PairPolicy:
        """The same policy for as long as no weight changes, as [`AgentPolicy.with_cached_prefix`]."""
        return PairPolicy(self.rows.with_cached_prefix(), self.batch)

    def embeddings(self) -> Tensor:
        """The unperturbed state of the chosen examples, (N, L, d); the rejected ones have the same prompts."""
        return self.rows.embeddings().chunk(2)[0]

    def __call__(self, delta: Tensor | None = None) -> Tensor:
        logits = self.rows(None if delta is None else torch.cat([delta, delta]))
        return torch.cat(logits.chunk(2), dim=1)


class PreferenceLoss(TRLSystemLoss):
    """
    DPO's sigmoid loss of each pair:
    `-log sigmoid(beta (log pi(c | s + delta) / ref(c | s) - log pi(r | s + delta) / ref(r | s)))`, where the
    reference's log-probabilities are constants at the clean prompt s.

    Args:
        inputs: Output of TRL's collator for N pairs, with `ref_chosen_logps` and `ref_rejected_logps` (N,).
        beta: DPO's temperature.
        perturbed_tokens: Which tokens of the prompts are perturbed.
        evaluate: Function from a head to TRL's loss and metrics.
    """

    def __init__(self, inputs: dict[str, Tensor], beta: float, evaluate: Callable, perturbed_tokens: str = "prompt"):
        super().__init__(evaluate)
        self.inputs, self.beta = inputs, beta
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        self.rows = AgentBatch.from_inputs({**inputs, "labels": labels}, perturbed_tokens)
        chosen = self.rows.select(torch.arange(len(self.rows) // 2, device=labels.device))
        of_both = ("action_positions", "action_mask", "action_labels")
        self.batch = replace(chosen, **{name: torch.cat(getattr(self.rows, name).chunk(2), dim=1) for name in of_both})

    def policy(self, model: nn.Module, dropout_seed: int | None, **model_kwargs) -> PairPolicy:
        return PairPolicy(AgentPolicy(model, self.rows, dropout_seed, **model_kwargs), self.batch)

    def per_example(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        batch = self.batch if rows is None else self.batch.select(rows)
        chosen, rejected = (-part.sum(dim=1) for part in token_nll(logits, batch).chunk(2, dim=1))
        reference = self.inputs["ref_chosen_logps"] - self.inputs["ref_rejected_logps"]
        margin = chosen - rejected - (reference if rows is None else reference[rows])
        return -logsigmoid(self.beta * margin)

    def success(self, logits: Tensor) -> Tensor:
        """Whether the log-ratio to the reference is larger for the chosen completion than for the rejected one."""
        return self.per_example(logits) < math.log(2)

    def smoothness(self) -> Tensor:
        """
        `beta^2 n / 2 + beta / 2` for the n tokens of both completions. The first term is the curvature of -log
        sigmoid, at most 1/4, times the squared gradient of the margin, at most 2 beta^2 per token. The second term is
        the slope of -log sigmoid, at most 1, times the Hessian of the margin: beta times the softmax Hessian of a
        token, at most 1/2.
        """
        return self.beta**2 * self.batch.action_mask.sum(dim=1) / 2 + self.beta / 2

    def metrics(self, clean: Tensor) -> dict[str, Tensor]:
        return super().metrics(clean) | {"tokens": self.rows.attention_mask.sum()}

    def _head(self, logits: Tensor) -> Callable:
        rows, width = self.rows, self.inputs["input_ids"].shape[1] - 1
        logits = torch.cat(logits.chunk(2, dim=1))
        return fused_head(logits, rows.action_labels, rows.action_mask, rows.action_positions, width)


class AAJRDPOTrainer(AAJRMixin, DPOTrainer):
    """
    Trainer for Adversarially-Aligned Jacobian Regularization (AAJR) with preferences.

    The system loss is the loss of DPO. For each pair, the adversary finds one perturbation of the shared prompt's
    embeddings that raises the pair's loss. Training lowers the loss at this perturbation, and the penalty keeps the
    logits of both completions' tokens stable along the ascent's directions. The reference model sees the clean prompt,
    and its log-probabilities are constants. With `epsilon = 0` and `regularizer_lambda = 0`, the trainer behaves like
    [`~trl.DPOTrainer`].

    Takes the arguments of [`~trl.DPOTrainer`], with an [`AAJRDPOConfig`], and `skip_invalid_rows` as [`AAJRTrainer`]. Logs the metrics of [`AAJRTrainer`], and
    TRL's own metrics at the clean prompts. Evaluation is the same as in `DPOTrainer`, without an adversary.

    Raises:
        ValueError: if settings or data cannot be trained on; before training starts where possible.
        FloatingPointError: if a loss, a penalty or a gradient is not finite; before the weights are updated.
    """

    _tag_names = ["trl", "dpo", "aajr"]
    _config_class = AAJRDPOConfig
    _replayable = False

    def __init__(
        self,
        model: str | nn.Module,
        ref_model: nn.Module | None = None,
        args: AAJRDPOConfig | None = None,
        *positional,
        skip_invalid_rows: bool = False,
        **kwargs,
    ):
        self._skip_invalid_rows = skip_invalid_rows
        model, args, kwargs = self._resolved(model, args, kwargs)
        super().__init__(model, ref_model, args, *positional, **kwargs)
        self.data_collator = PairCollator(self.data_collator)
        self._set_up()

    def _check_support(self) -> None:
        super()._check_support()
        check_trl_loss(self)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        check_pairs(dataset)
        dataset = self._read_rows(dataset, Template(processing_class), args, dataset_name)
        # First without a length limit: TRL drops pairs whose prompts fill it, without a word.
        whole = copy.copy(args)
        whole.max_length = None
        dataset = super()._prepare_dataset(dataset, processing_class, whole, dataset_name)
        dataset = self._with_cuts(dataset, args, dataset_name)
        if args.max_length is not None and args.truncation_mode == "keep_start":
            dataset = dataset.filter(lambda pair: len(pair["prompt_ids"]) < args.max_length)
        if dataset_name != "train" or not args.is_active:
            return dataset
        if args.perturbed_tokens in OBSERVED_ROLES:
            if not isinstance(next(iter(dataset))["prompt"], list):
                raise ValueError(
                    f"`perturbed_tokens={args.perturbed_tokens}` needs messages, but the prompts are texts: give "
                    "messages, or set it to prompt."
                )
            dataset = add_pair_columns(dataset, text_tokenizer(processing_class), args.perturbed_tokens)
        if isinstance(dataset, Dataset):
            self._check_pairs(dataset, args)
        return dataset

    def _check_pairs(self, dataset: Dataset, args: AAJRDPOConfig) -> None:
        """Raise ValueError for the first pair without a token to perturb, or with an empty completion."""
        names = ["prompt_ids", "chosen_ids", "rejected_ids", "observation_mask"]
        for row, example in enumerate(dataset.select_columns([n for n in names if n in column_names(dataset)])):
            prompt = example.get("observation_mask", [1] * len(example["prompt_ids"]))
            if not any(prompt[: args.max_length]):
                raise ValueError(missing_tokens_message("perturbable", args.perturbed_tokens, row))
            if not (example["chosen_ids"] and example["rejected_ids"]):
                raise ValueError(missing_tokens_message("action", "prompt", row))

    def _system_loss(self, inputs, num_items) -> PreferenceLoss:
        if not self.precompute_ref_logps:
            chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            inputs = inputs | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return PreferenceLoss(inputs, self.beta, functools.partial(self._trl_loss, inputs), self.args.perturbed_tokens)

    def _trl_loss(self, inputs: dict[str, Tensor], head: Callable) -> tuple[Tensor, dict[str, float]]:
        """TRL's loss and metrics, with the reference's log-probabilities in `inputs`."""
        precomputed, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            return trl_loss(self, DPOTrainer, head, inputs)
        finally:
            self.precompute_ref_logps = precomputed
