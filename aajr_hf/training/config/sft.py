"""`AAJRConfig`: the fields of Adversarially-Aligned Jacobian Regularization on top of TRL's `SFTConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig

from .action_loss import ActionLossField
from .base import AAJRConfigMixin, documented, require
from .classes import ClassFields
from .nuisance import NuisanceFields
from .rows import RowFields


@documented
@dataclass
class AAJRConfig(AAJRConfigMixin, NuisanceFields, ClassFields, ActionLossField, RowFields, SFTConfig):
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

    def _check_numbers(self) -> None:
        super()._check_numbers()
        for name in ("trigger_share", "mask_share"):
            require(self, name, lambda x: 0 <= x <= 1, "between 0 and 1")
        require(self, "nuisance_rank", lambda x: x >= 1, "at least 1")
        require(self, "teacher_entropy_floor", lambda x: x >= 0, "at least 0")
        if (self.system_loss == "distillation") != (self.teacher is not None):
            raise ValueError(
                "`teacher` and `system_loss` distillation need each other: give both, or leave out both; got "
                f"{self.teacher} and {self.system_loss}."
            )
        require(self, "long_tail_alpha", lambda x: 0 <= x < 1, "at least 0 and below 1")
        if self.long_tail_alpha > 0:
            self.needs_adversary("long_tail_alpha")
        if not self.mask_marker.strip():
            raise ValueError("`mask_marker` is empty, but it stands in place of words: give a text such as [{type}].")

    def _unsupported(self) -> dict[str, tuple[Any, ...]]:
        fields = {
            "loss_type": (self.loss_type, "nll"),
            "label_smoothing_factor": (self.label_smoothing_factor, 0.0),
        }
        if self.packing:
            # Other strategies cut documents anywhere, so an action could lose its prompt.
            fields["packing_strategy"] = (self.packing_strategy, "bfd", "with `packing`")
            fields["system_loss"] = (self.system_loss, "nll", "with `packing`")
            fields["long_tail_alpha"] = (self.long_tail_alpha, 0.0, "with `packing`")
        if self.needs_variants:  # they would differ from their rows in what was put into these, too
            fields["triggers"] = (self.triggers, None, "with `nuisance` variants")
        if self.perturbed_layer > 0:
            fields["teacher_view"] = (self.teacher_view, "clean", "with a `perturbed_layer`")
        if self.system_loss == "expected_cost":
            fields["truncation_mode"] = (self.truncation_mode, "keep_start", "with `system_loss` expected_cost")
        return fields
