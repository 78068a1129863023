"""`AAJRDPOConfig`: the fields of TRL's DPO and of the adversary, and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import DPOConfig

from .base import AAJRConfigMixin, documented


@documented
@dataclass
class AAJRDPOConfig(AAJRConfigMixin, DPOConfig):
    r"""
    Configuration class for the [`AAJRDPOTrainer`].

    This class includes only the parameters of Adversarially-Aligned Jacobian Regularization (AAJR, arXiv 2603.04378).
    For the others, see [`~trl.DPOConfig`] and [`~transformers.TrainingArguments`]. The adversary supports TRL's loss `sigmoid`
    only.

    Parameters:
    """

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if self.regularizer == "matched":
            raise ValueError("`regularizer` matched works only with SFT: set it to another one with DPO.")
        if self.perturbed_tokens == "all":
            raise ValueError(
                "`perturbed_tokens` cannot be all with DPO, because the two completions share only their prompt: set "
                "it to prompt, observation, user or tool."
            )

    def _unsupported(self) -> dict[str, tuple[Any, ...]]:
        loss_types = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        return {
            "loss_type": (loss_types, ["sigmoid"]),
            "loss_weights": (self.loss_weights, None),
            "ld_alpha": (self.ld_alpha, None),
            "f_divergence_type": (self.f_divergence_type, "reverse_kl"),
            "use_weighting": (self.use_weighting, False),
            "truncation_mode": (self.truncation_mode, "keep_start"),
            "padding_free": (self.padding_free, False),
            "activation_offloading": (self.activation_offloading, False),
            "use_liger_kernel": (self.use_liger_kernel, False),
            "ascent_start": (self.ascent_start, "zero", "with DPO, whose metrics belong to the unperturbed prompt"),
            "perturbed_layer": (self.perturbed_layer, 0, "with DPO"),
            "sensitivity_floor": (self.sensitivity_floor, 0.0, "with DPO"),
        }
