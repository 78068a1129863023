"""What the configurations of all trainers share: the fields of the adversary and the penalty, and their validation."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
import math
import re
import textwrap
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from ..._compat.transformers import use_new_names
from ..._errors import first_line
from .action_loss import ActionLossField
from .choices import BUDGETED_REGULARIZERS, CHOICES, GLOBAL_REGULARIZERS, LOCAL_REGULARIZERS, SCHEDULES
from .classes import ClassFields
from .fields import AdversaryFields, RegularizerFields
from .nuisance import NuisanceFields
from .recipe import is_secret, without_secrets
from .rows import RowFields
from .watching import WatchFields


@dataclass
class AAJRConfigMixin(WatchFields, RegularizerFields, AdversaryFields):
    """
    Mixin for the configuration of a TRL trainer: the fields of Adversarially-Aligned Jacobian Regularization and their
    validation.

    Raises:
        ValueError: for an invalid value; the message names the field and the remedy.
    """

    # Name of the field with the ball's radius: in TRL's GRPO, `epsilon` has another meaning.
    radius_field = "epsilon"

    def __post_init__(self):
        self._read_options()
        self._check_choices()
        self._check_numbers()
        self._resolve_step_size()
        if self.amplification_budget is not None:
            self._check_budget()
        if self.is_active:
            self._check_combinations()
        use_new_names(self)
        try:
            super().__post_init__()
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{_suspect(self, str(error))}{first_line(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        """
        Return the fields without the user's access tokens, because Trainer pickles its arguments beside the weights.
        """
        return {name: None if is_secret(name) else without_secrets(value) for name, value in vars(self).items()}

    @property
    def penalty_active(self) -> bool:
        """Whether a Jacobian is penalised."""
        return self.regularizer != "none" and (self.regularizer_lambda > 0 or self.amplification_budget is not None)

    @property
    def is_active(self) -> bool:
        """Whether training differs from TRL's own trainer."""
        return self.radius > 0 or self.penalty_active or self.clean_loss_weight > 0

    @property
    def follows_success(self) -> bool:
        """Whether a schedule waits for success under attack."""
        return any(getattr(self, name) == "curriculum" for name in SCHEDULES)

    @property
    def radius(self) -> float:
        """Radius of the perturbation ball, in units of `epsilon_mode`."""
        return getattr(self, self.radius_field)

    def _read_options(self) -> None:
        options = self.adapter_options
        if isinstance(options, str):
            try:
                options = self.adapter_options = json.loads(options)
            except json.JSONDecodeError as error:
                raise ValueError(f"`adapter_options` must be a mapping, or a mapping as JSON: {error}.") from None
        if not isinstance(options, dict | None):
            raise ValueError(f"`adapter_options` must be a mapping; got {options!r}.")

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            if hasattr(self, name) and getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        for name, kind in _enumerations(type(self)).items():
            choices = [choice.value for choice in kind]
            value = getattr(self, name)
            if getattr(value, "value", value) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")

    def _check_numbers(self) -> None:
        at_least_zero = (
            "clean_loss_weight",
            "adversarial_loss_weight",
            "regularizer_lambda",
            "sensitivity_floor",
            "ascent_steps",
            "perturbed_layer",
            "learning_rate",
        )
        for name in (self.radius_field, *at_least_zero):
            require(self, name, lambda x: x >= 0, "at least 0")
        at_least_one = ("power_iterations", "penalty_interval", "penalty_radius", "adapter_rank", "rollback_interval")
        for name in (*at_least_one, "per_device_train_batch_size", "gradient_accumulation_steps"):
            require(self, name, lambda x: x >= 1, "at least 1")
        require(self, "penalty_fraction", lambda x: 0 < x <= 1, "above 0 and at most 1")
        require(self, "aajr_warmup_ratio", lambda x: 0 <= x <= 1, "between 0 and 1")
        require(self, "curriculum_threshold", lambda x: 0 < x <= 1, "above 0 and at most 1")
        if self.ema_decay is not None:
            require(self, "ema_decay", lambda x: 0 < x < 1, "between 0 and 1")
        if self.amplification_budget is not None:
            require(self, "amplification_budget", lambda x: x > 0, "above 0")
        if self.rollback_tolerance is not None:
            self._check_rollback()
        require(self, "overfitting_interval", lambda x: x >= 0, "at least 0")
        if self.overfitting_interval > 0:
            self.needs_adversary("overfitting_interval")
            require(self, "ascent_steps", lambda x: x < 10, "below 10 with an `overfitting_interval`")

    def _resolve_step_size(self) -> None:
        if self.ascent_step_size is None:
            auto = self.ascent_step_rule == "gradient"
            self.ascent_step_size = "auto" if auto else 2.5 * self.radius / max(self.ascent_steps, 1)
        if self.ascent_step_size == "auto":
            if self.ascent_step_rule != "gradient":
                raise ValueError(
                    "`ascent_step_size=auto` needs plain gradient steps: set `ascent_step_rule` to gradient, or "
                    "`ascent_step_size` to a number."
                )
            return
        try:
            self.ascent_step_size = float(self.ascent_step_size)
        except ValueError:
            raise ValueError(f"`ascent_step_size` must be a number or auto; got {self.ascent_step_size!r}.") from None
        require(self, "ascent_step_size", lambda x: x >= 0, "at least 0")
        if self.radius > 0 and self.ascent_step_size == 0:
            raise ValueError(
                f"`ascent_step_size` is 0, so the ascent would not move: set it above 0, or set "
                f"`{self.radius_field}` to 0."
            )

    def _check_combinations(self) -> None:
        if self.ascent_steps == 0 and self.radius > 0:
            name = self.radius_field
            raise ValueError(
                f"`ascent_steps` must be at least 1 if `{name}` is above 0: raise it, or set `{name}` to 0."
            )
        if self.ascent_steps == 0 and self.penalty_active and self.regularizer in LOCAL_REGULARIZERS:
            raise ValueError(
                f"`ascent_steps` must be at least 1 with the regularizer {self.regularizer}, which is evaluated along "
                "the ascent: raise it, or set `regularizer` to none."
            )
        if self.penalty_radius > 1 and self.penalty_active:
            self._check_penalty_radius()
        if self.adversarial_loss_weight == 0 and self.clean_loss_weight == 0:
            raise ValueError(
                "`adversarial_loss_weight` and `clean_loss_weight` are both 0, so no task would be learnt: raise one of them."
            )
        if self.neftune_noise_alpha:
            raise ValueError(
                "`neftune_noise_alpha` adds different noise in every pass, so ascent, loss and Jacobian would belong "
                "to different functions: unset it while AAJR is active."
            )
        if self.sensitivity_floor > 0:
            self._check_floor()
        penalised = max(round(self.penalty_fraction * self.per_device_train_batch_size), 1)
        alone = penalised == 1 and not getattr(self, "packing", False)
        if alone and self.penalty_active and self.regularizer in GLOBAL_REGULARIZERS:
            raise ValueError(
                f"`regularizer` {self.regularizer} is evaluated between observations of a batch, but only one is "
                "penalised: raise `per_device_train_batch_size` or `penalty_fraction`."
            )
        if self.follows_success and self.aajr_warmup_ratio == 0:
            raise ValueError("`aajr_warmup_ratio` is 0, but it is the length of the `curriculum`: set it above 0.")
        for name, (value, supported, *condition) in self._unsupported().items():
            if value != supported:
                where = " ".join(["while AAJR is active", *condition])
                raise ValueError(f"`{name}` must be {supported} {where}; got {value}.")

    def _check_penalty_radius(self) -> None:
        if self.regularizer in GLOBAL_REGULARIZERS:
            raise ValueError(
                f"`penalty_radius` must be 1 with the regularizer {self.regularizer}, which is not evaluated along "
                f"the ascent: set it to 1, or `regularizer` to one of {', '.join(LOCAL_REGULARIZERS)}."
            )
        if self.radius == 0:
            name = self.radius_field
            raise ValueError(
                f"`penalty_radius` must be 1 if `{name}` is 0, because there is no ball: set it to 1, or "
                f"raise `{name}`."
            )

    def _check_budget(self) -> None:
        if self.regularizer not in BUDGETED_REGULARIZERS:
            raise ValueError(
                f"`amplification_budget` works only with the regularizers {', '.join(BUDGETED_REGULARIZERS)}: unset it, or set "
                "`regularizer` to one of them."
            )
        if self.lambda_mode == "relative":
            raise ValueError(
                "`lambda_mode` must be absolute with an `amplification_budget`, which finds lambda itself."
            )
        # The budget raises lambda only after the end of lambda's warm-up.
        if self.lambda_schedule == "curriculum":
            raise ValueError("`lambda_schedule` must be linear, cosine or constant with an `amplification_budget`.")
        if self.lambda_schedule != "constant" and self.aajr_warmup_ratio > 0.5:
            raise ValueError(
                f"`aajr_warmup_ratio` must be at most 0.5 with an `amplification_budget`; got {self.aajr_warmup_ratio}."
            )

    def _check_floor(self) -> None:
        if not self.penalty_active:
            raise ValueError(
                "`sensitivity_floor` is weighed by lambda, but there is no penalty: raise `regularizer_lambda`, or set it to 0."
            )
        if self.amplification_budget is not None and self.sensitivity_floor > self.amplification_budget:
            raise ValueError(
                "`sensitivity_floor` must be at most the `amplification_budget`, so that a band is left between them; got "
                f"{self.sensitivity_floor}."
            )
        if self.per_device_train_batch_size == 1 and not getattr(self, "packing", False):
            raise ValueError(
                "`sensitivity_floor` compares observations of a batch: raise `per_device_train_batch_size`, or set it to 0."
            )

    def _check_rollback(self) -> None:
        # Infinity is allowed: it measures the probe and never goes back.
        if not isinstance(self.rollback_tolerance, int | float) or not self.rollback_tolerance >= 0:
            raise ValueError(f"`rollback_tolerance` must be a number, at least 0; got {self.rollback_tolerance}.")
        self.needs_adversary("rollback_tolerance")

    def needs_adversary(self, name: str) -> None:
        """Raise ValueError if the radius is 0, so that the field `name` has no effect."""
        if self.radius == 0:
            radius = self.radius_field
            raise ValueError(f"`{name}` needs an adversary, but `{radius}` is 0: raise `{radius}`, or unset `{name}`.")

    def _unsupported(self) -> dict[str, tuple[Any, ...]]:
        """
        Fields that must have a certain value: each name maps to (value, supported value), or, if another field is the
        reason, to (value, supported value, "with ...").
        """
        return {}


_SHARED = (AdversaryFields, ActionLossField, ClassFields, RegularizerFields, NuisanceFields, WatchFields, RowFields)


def documented(cls: type) -> type:
    """Decorator that adds the paragraphs of the inherited fields to a configuration's docstring, for `help()`."""
    shared = [base for base in cls.__mro__ if base in _SHARED]
    for base in reversed(shared):
        paragraphs = inspect.cleandoc(base.__doc__).partition("Parameters:\n")[2]
        cls.__doc__ = cls.__doc__.rstrip() + "\n\n" + textwrap.indent(paragraphs, " " * 4) + "\n    "
    return cls


@functools.cache
def _enumerations(cls: type) -> dict[str, type[enum.Enum]]:
    """Fields of Transformers with a choice, whose own errors name the choices, but not the field."""
    hints = get_type_hints(cls)
    return {
        field.name: kind
        for field in dataclasses.fields(cls)
        for kind in get_args(hints[field.name])
        if isinstance(kind, type) and issubclass(kind, enum.Enum)
    }


def _suspect(config: AAJRConfigMixin, text: str) -> str:
    """The beginning of an error of Transformers or TRL that names no field: the field whose value it quotes."""
    fields = [field for field in dataclasses.fields(config) if field.init and hasattr(config, field.name)]
    if any(re.search(rf"\b{field.name}\b", text) for field in fields):
        return ""
    for field in fields:
        value = getattr(config, field.name)
        parts = value if isinstance(value, dict) else [value]
        if value != field.default and any(f"'{part}'" in text or str(part) == text.split()[-1] for part in parts):
            return f"`{field.name}`: "
    return ""


def require(config: AAJRConfigMixin, name: str, holds, requirement: str) -> None:
    """Raise ValueError unless a field is a finite number for which `holds` is true; names the field."""
    value = getattr(config, name)
    if not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise ValueError(f"`{name}` must be a finite number, {requirement}; got {value}.")
