"""`AAJRGRPOConfig`: the fields of TRL's GRPO and of the adversary, and their validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from .base import AAJRConfigMixin, documented

_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


@documented
@dataclass
class AAJRGRPOConfig(AAJRConfigMixin, GRPOConfig):
    r"""
    Configuration class for the [`AAJRGRPOTrainer`].

    This class includes only the parameters of Adversarially-Aligned Jacobian Regularization (AAJR, arXiv 2603.04378).
    For the others, see [`~trl.GRPOConfig`] and [`~transformers.TrainingArguments`]. Here `epsilon` is TRL's range of the clipped
    ratio, and the paragraphs below mean `perturbation_epsilon` where they say epsilon. The adversary supports TRL's losses `grpo`,
    `bnpo`, `dr_grpo` and `dapo` with token-level ratios.

    Parameters:
        perturbation_epsilon (`float`, *optional*, defaults to `0.25`):
            Radius of the perturbation ball, in units of `epsilon_mode`. `0` trains without an adversary.
    """

    radius_field = "perturbation_epsilon"

    # Overrides the mixin's field `epsilon`, which is the adversary's radius.
    epsilon: float = field(default=GRPOConfig.epsilon, metadata={"help": "Range of the clipped ratio, as TRL's."})
    perturbation_epsilon: float = field(
        default=AAJRConfigMixin.epsilon,
        metadata={
            "help": "Radius of the perturbation ball, in units of `epsilon_mode`. 0 trains without an adversary."
        },
    )

    def _check_numbers(self) -> None:
        super()._check_numbers()
        smallest = {"num_generations": 2, "num_generations_eval": 1, "num_iterations": 1, "steps_per_generation": 1}
        for name, least in (smallest | {"generation_batch_size": 1}).items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}; got {value}.")

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if self.regularizer == "matched":
            raise ValueError("`regularizer` matched works only with SFT: set it to another one with GRPO.")
        if self.follows_success:
            raise ValueError(
                "`epsilon_schedule`, `lambda_schedule` and `ascent_steps_schedule` cannot be `curriculum` with GRPO, "
                "because sampled completions are not right or wrong: set them to linear, cosine or constant."
            )
        if self.loss_type not in _LOSS_TYPES:
            raise ValueError(
                f"`loss_type` must be one of {', '.join(_LOSS_TYPES)} while AAJR is active; got {self.loss_type}."
            )

    def _unsupported(self) -> dict[str, tuple[Any, ...]]:
        return {
            "use_vllm": (self.use_vllm, False),
            "use_liger_kernel": (self.use_liger_kernel, False),
            "ascent_start": (self.ascent_start, "zero", "with GRPO, whose metrics belong to the unperturbed prompt"),
            "perturbed_layer": (self.perturbed_layer, 0, "with GRPO"),
            "sensitivity_floor": (self.sensitivity_floor, 0.0, "with GRPO, whose completions are not right or wrong"),
            "importance_sampling_level": (self.importance_sampling_level, "token"),
            "delta": (self.delta, None),
            "off_policy_mask_threshold": (self.off_policy_mask_threshold, None),
            "mask_truncated_completions": (self.mask_truncated_completions, False),
            "top_entropy_quantile": (self.top_entropy_quantile, 1.0),
            "entropy_coef": (self.entropy_coef, 0.0),
            "use_adaptive_entropy": (self.use_adaptive_entropy, False),
            "cast_lm_head_to_fp32": (self.cast_lm_head_to_fp32, False),
            "perturbed_tokens": (self.perturbed_tokens, "prompt"),
            "overfitting_interval": (
                self.overfitting_interval,
                0,
                "with GRPO, whose completions are new in each step",
            ),
            "rollback_tolerance": (self.rollback_tolerance, None, "with GRPO, whose completions are new in each step"),
        }
