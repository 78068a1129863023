"""`AAJRGRPOTrainer`: TRL's `GRPOTrainer` with an adversary on the prompt's embeddings and a penalty along its directions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import logging
from trl import GRPOTrainer

from ..config.grpo import AAJRGRPOConfig
from ..data.batch import AgentBatch
from ..data.collation import column_names
from ..data.lengths import check_answers
from ..data.preferences import check_prompts
from ..data.template import Template
from ..policy.row_layout import position_failure
from ..policy.system_losses import token_nll
from .base import AAJRMixin
from .trl_loss import TRLSystemLoss, check_trl_loss, fused_head, trl_loss

logger = logging.get_logger(__name__)


class PolicyLoss(TRLSystemLoss):
    """
    GRPO's loss of each sampled completion y under a perturbation of its prompt: the mean over its tokens t (with
    `dr_grpo` the sum over `max_completion_length`) of

        -min(r_t A, clip(r_t, 1 - low, 1 + high) A) + beta KL_t,    r_t = pi(y_t | s + delta, y_<t) / pi_old(y_t | s, y_<t)

    With `use_bias_correction_kl`, KL_t is multiplied by r_t. The completion y, its advantage A, `pi_old` and the
    reference in the KL term are constants at the clean prompt s. Without TRL's `old_per_token_logps`, `pi_old` is the
    policy at the first evaluated logits, which must be the logits at delta = 0.

    Args:
        inputs: The micro-batch of B completions, sampled and scored by TRL.
        trainer: The trainer, which has the settings of the loss.
        evaluate: Function from a head and inputs to TRL's loss and metrics.
    """

    def __init__(self, inputs: dict[str, Tensor], trainer: GRPOTrainer, evaluate: Callable):
        super().__init__(lambda head: evaluate(head, self._with_old()))
        self.inputs, self.trainer = inputs, trainer
        self.batch = _right_padded(inputs)
        self._old = inputs.get("old_per_token_logps")

    def _log_probs(self, logits: Tensor, batch: AgentBatch) -> Tensor:
        """Log-probabilities of the sampled tokens, (B, A), at the sampling temperature."""
        return -token_nll(logits / self.trainer.temperature, batch)

    def per_example(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        batch = self.batch if rows is None else self.batch.select(rows)
        mask, width = batch.action_mask, batch.action_mask.shape[1]
        log_probs = self._log_probs(logits, batch)
        if self._old is None:
            self._old = pad(log_probs.detach(), (0, self.inputs["completion_ids"].shape[1] - width))

        def known(values: Tensor) -> Tensor:
            return values if rows is None else values[rows]

        ratio = (log_probs - known(self._old)[:, :width]).exp()
        advantages = known(self.inputs["advantages"])[:, None]
        clipped = ratio.clamp(1 - self.trainer.epsilon_low, 1 + self.trainer.epsilon_high)
        losses = -torch.min(ratio * advantages, clipped * advantages)
        if self.trainer.beta != 0:
            rise = known(self.inputs["ref_per_token_logps"])[:, :width] - log_probs
            divergence = rise.exp() - rise - 1
            corrected = self.trainer.args.use_bias_correction_kl
            losses = losses + self.trainer.beta * (divergence * ratio if corrected else divergence)
        total = losses.masked_fill(~mask, 0).sum(dim=1)
        fixed = self.trainer.loss_type == "dr_grpo"
        return total / (self.trainer.max_completion_length if fixed else mask.sum(dim=1))

    def smoothness(self) -> None:
        """None: the clipped ratio has kinks and no bound."""

    def _head(self, logits: Tensor) -> Callable:
        batch, width = self.batch, self.inputs["completion_ids"].shape[1]
        # The sampled tokens are adjacent, so the k-th logit predicts the k-th token.
        columns = torch.arange(logits.shape[1], device=logits.device).expand(len(batch), -1)
        scaled = logits / self.trainer.temperature
        return fused_head(scaled, batch.action_labels, batch.action_mask, columns, width)

    def _with_old(self) -> dict[str, Any]:
        return self.inputs if self._old is None else self.inputs | {"old_per_token_logps": self._old}


def _right_padded(inputs: dict[str, Tensor]) -> AgentBatch:
    """
    Join prompts (padded on the left) and completions (padded on the right) to rows that are padded only on the right,
    as the penalty's gradients need. For models that pass [`position_failure`], the result is the same.
    """
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : inputs["prompt_ids"].shape[1]] = -100
    order = (mask == 0).int().argsort(dim=1, stable=True)[:, : int(mask.sum(dim=1).max())]
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return AgentBatch.from_inputs({name: value.gather(1, order) for name, value in rows.items()}, "prompt")


class AAJRGRPOTrainer(AAJRMixin, GRPOTrainer):
    """
    Trainer for Adversarially-Aligned Jacobian Regularization (AAJR) of a policy that is trained on its own samples.

    The paper's policy is deterministic, and the paper does not define the system loss of a policy that samples. Here
    completions are sampled at the clean prompt and scored as in [`~trl.GRPOTrainer`]. Each completion is an example,
    and its system loss is GRPO's own ([`PolicyLoss`]): the sampled tokens, their advantage, and the old and reference
    log-probabilities are constants, and the adversary perturbs the embeddings of the prompt. Raising this loss makes
    completions that were better than their group less likely, and worse completions more likely. The negative loss is
    the importance-weighted estimate, from samples at the clean prompt, of the advantage that the agent would have if
    it sampled at the perturbed prompt (token by token, as GRPO approximates it). Clipping stops only changes that
    lower the loss, so it never stops the adversary.

    The adversary finds one perturbation for each completion, so it knows the completion in advance. An adversary that
    knows only the prompt is not stronger (the maximum of a mean is at most the mean of the maxima), and TRL spreads a
    group over micro-batches. Training lowers the loss at the perturbed prompts, averaged as `loss_type` says, and the
    penalty keeps the logits of the sampled tokens (before the temperature) stable along the ascent's directions. A
    completion without an advantage and without a KL term has no direction and no penalty. With
    `perturbation_epsilon = 0` and `regularizer_lambda = 0`, the trainer behaves like [`~trl.GRPOTrainer`].

    Takes the arguments of [`~trl.GRPOTrainer`], with an [`AAJRGRPOConfig`], and `skip_invalid_rows` as [`AAJRTrainer`]. Logs the metrics of [`AAJRTrainer`],
    except the metrics of smoothness, for which this loss has no bound, and TRL's own metrics at the clean prompts.
    Evaluation is the same as in `GRPOTrainer`, without an adversary.

    Raises:
        ValueError: if settings cannot be trained with; before training starts.
        FloatingPointError: if a loss, a penalty or a gradient is not finite; before the weights are updated.
    """

    _tag_names = ["trl", "grpo", "aajr"]
    _config_class = AAJRGRPOConfig
    _replayable = False

    def __init__(
        self,
        model: str | nn.Module,
        reward_funcs=None,
        args: AAJRGRPOConfig | None = None,
        *positional,
        skip_invalid_rows: bool = False,
        **kwargs,
    ):
        self._skip_invalid_rows = skip_invalid_rows
        model, args, kwargs = self._resolved(model, args, kwargs)
        if (dataset := positional[0] if positional else kwargs.get("train_dataset")) is not None:
            check_prompts(dataset)
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self._read_prompts()
        self._set_up()

    def _read_prompts(self) -> None:
        """Read the prompts of the data, which TRL renders when it samples."""
        template = Template(self.processing_class, self.chat_template)
        options = {"add_generation_prompt": True, **self.chat_template_kwargs}
        read = functools.partial(
            self._read_rows, template=template, args=self.args, only_prompts=True, options=tuple(options.items())
        )
        self.train_dataset = read(self.train_dataset, name="train")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {name: read(dataset, name=name) for name, dataset in self.eval_dataset.items()}
        elif self.eval_dataset is not None:
            self.eval_dataset = read(self.eval_dataset, name="eval")
        if "tools" in column_names(self.train_dataset) and not self.tools:
            logger.warning(
                "The column `tools` of the train data is passed to the reward functions, and is not in the prompts."
            )

    def _compared(self, dataset, limit: int, is_fixed: bool, what: str):
        if self.environment_factories is not None:  # each would have its own tools in the prompt
            return dataset
        return check_answers(dataset, self._prompt_length, self.args.max_completion_length, limit, is_fixed, what)

    def _prompt_length(self, example: dict[str, Any]) -> int:
        """The number of tokens of a prompt, as TRL makes them when it samples."""
        prompt, template = example["prompt"], Template(self.processing_class, self.chat_template)
        if isinstance(prompt, str):
            return len(template.tokenizer(prompt)["input_ids"])
        options = {"tools": self.tools or None, "add_generation_prompt": True, **self.chat_template_kwargs}
        return len(template.tokenizer(template.render(prompt, **options), add_special_tokens=False)["input_ids"])

    def _check_support(self) -> None:
        super()._check_support()
        check_trl_loss(self)
        given = {
            "tools": self.tools,
            "environment_factory": self.environment_factories,
            "rollout_func": self.rollout_func,
        }
        if (reason := position_failure(self.model)) is not None:
            raise ValueError(
                "TRL scores prompts that are padded on the left, but this model counts positions from the padding: "
                f"use a model with rotary or relative positions. Reason: {reason}."
            )
        for name, value in given.items():
            if value:
                raise ValueError(
                    f"`{name}` is not supported while AAJR is active, because the agent must write the whole "
                    "completion: unset it."
                )

    def _accumulation(self, num_items) -> int:
        return self.current_gradient_accumulation_steps

    def _system_loss(self, inputs, num_items) -> PolicyLoss:
        return PolicyLoss(inputs, self, functools.partial(trl_loss, self, GRPOTrainer))
