"""`AAJRConfig`: the fields of Adversarially-Aligned Jacobian Regularization on top of TRL's `SFTConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig

from .base import AAJRConfigMixin, documented
from .fields import ActionLossField


@documented
@dataclass
class AAJRConfig(AAJRConfigMixin, ActionLossField, SFTConfig):
    r"""
    Configuration class for the [`AAJRTrainer`].

    This class includes only the parameters of Adversarially-Aligned Jacobian Regularization (AAJR, arXiv 2603.04378).
    For the others, see [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`].

    Parameters:
    """

    @property
    def is_active(self) -> bool:
        """Whether training differs from `SFTTrainer`."""
        return super().is_active or self.system_loss != "nll"

    def _unsupported(self) -> dict[str, tuple[Any, ...]]:
        fields = {
            "loss_type": (self.loss_type, "nll"),
            "label_smoothing_factor": (self.label_smoothing_factor, 0.0),
        }
        if self.packing:
            # Other strategies cut documents anywhere, so an action could lose its prompt.
            fields["packing_strategy"] = (self.packing_strategy, "bfd", "with `packing`")
            fields["system_loss"] = (self.system_loss, "nll", "with `packing`")
        if self.system_loss == "expected_cost":
            fields["truncation_mode"] = (self.truncation_mode, "keep_start", "with `system_loss` expected_cost")
        return fields
