"""The values that fields of the configuration may have."""

from __future__ import annotations

from .adapter_names import ADAPTERS

SCHEDULES = ("epsilon_schedule", "lambda_schedule", "ascent_steps_schedule")
CHOICES = {
    "epsilon_mode": ("relative", "absolute"),
    "perturbation_norm": ("l2", "linf"),
    "perturbation_scope": ("sequence", "token"),
    "perturbed_tokens": ("prompt", "observation", "user", "tool", "incidental", "all"),
    "ascent_step_rule": ("normalized", "gradient", "sign"),
    "ascent_start": ("zero", "random"),
    "regularizer": (
        "aajr",
        "global_spectral",
        "local_spectral",
        "global_frobenius",
        "random_direction",
        "matched",
        "none",
    ),
    "nuisance": ("ascent", "variants", "answers", "random"),
    "lambda_mode": ("absolute", "relative"),
    "penalty_output": ("logits", "centered_logits", "log_probs", "probs", "fisher", "margin"),
    "penalty_reduction": ("sum", "token_mean"),
    "jacobian_estimator": ("auto", "jvp", "finite_difference"),
    "penalty_trajectory": ("all", "last", "sample"),
    **dict.fromkeys(SCHEDULES, ("constant", "linear", "cosine", "curriculum")),
    "system_loss": ("nll", "expected_cost", "distillation"),
    "teacher_view": ("clean", "perturbed"),
    "adapter": ADAPTERS,
    "on_nonfinite": ("stop", "skip"),
}
# Regularizers that are evaluated along the ascent, and so need an ascent.
LOCAL_REGULARIZERS = ("aajr", "local_spectral", "random_direction", "matched")
# Regularizers whose mean an `amplification_budget` can bound: those that measure how much a direction is amplified.
BUDGETED_REGULARIZERS = ("aajr", "local_spectral", "global_spectral")
# Regularizers that are evaluated at interpolations between the observations of a batch.
GLOBAL_REGULARIZERS = ("global_spectral", "global_frobenius")
