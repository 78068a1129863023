"""The fields that AAJR adds to the configuration of a TRL trainer, whichever that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .adapter_names import ADAPTERS

_GROUP = "adversary, regularizer and adapter (AAJRConfig)"
SCHEDULES = ("epsilon_schedule", "lambda_schedule", "ascent_steps_schedule")
CHOICES = {
    "epsilon_mode": ("relative", "absolute"),
    "perturbation_norm": ("l2", "linf"),
    "perturbation_scope": ("sequence", "token"),
    "perturbed_tokens": ("prompt", "observation", "user", "tool", "all"),
    "ascent_step_rule": ("normalized", "gradient", "sign"),
    "regularizer": (
        "aajr",
        "global_spectral",
        "local_spectral",
        "global_frobenius",
        "random_direction",
        "none",
    ),
    "penalty_output": ("logits", "centered_logits", "log_probs", "probs", "fisher", "margin"),
    "penalty_reduction": ("sum", "token_mean"),
    "jacobian_estimator": ("auto", "jvp", "finite_difference"),
    "penalty_trajectory": ("all", "last", "sample"),
    **dict.fromkeys(SCHEDULES, ("constant", "linear", "cosine", "curriculum")),
    "system_loss": ("nll", "expected_cost"),
    "adapter": ADAPTERS,
    "on_nonfinite": ("stop", "skip"),
}
# Regularizers that are evaluated along the ascent, and so need one.
LOCAL_REGULARIZERS = ("aajr", "local_spectral", "random_direction")
# Regularizers that are evaluated between the observations of a batch.
GLOBAL_REGULARIZERS = ("global_spectral", "global_frobenius")


def _choice(name: str, default: str, text: str):
    return field(default=default, metadata={"help": text, "choices": list(CHOICES[name])})


@dataclass
class AdversaryFields:
    r"""
    What the adversary may do.

    Parameters:
        > Parameters that control the perturbation

        epsilon (`float`, *optional*, defaults to `0.25`):
            Radius of the ball of perturbations. `0` trains without an adversary.
        epsilon_mode (`str`, *optional*, defaults to `"relative"`):
            `"relative"`: epsilon counts mean l2 norms of the example's perturbed embeddings, so that one value carries
            over between models; the step size scales with it. `"absolute"`: in the units of the embeddings.
        perturbation_norm (`str`, *optional*, defaults to `"l2"`):
            Norm of the ball, `"l2"` or `"linf"`: every coordinate may move by epsilon then, so choose it far smaller.
        perturbation_scope (`str`, *optional*, defaults to `"sequence"`):
            `"sequence"`: one ball over all perturbed positions (the paper); `"token"`: one ball per position.
        perturbed_tokens (`str`, *optional*, defaults to `"prompt"`):
            `"prompt"`: every token that is no action and before one; of these `"observation"`: what users and tools said,
            without markup, `"user"` and `"tool"`: what users or tools alone said; `"all"`: every token but padding,
            actions included. DPO and GRPO take `"prompt"` alone.

        > Parameters that control the ascent (equation 11)

        ascent_steps (`int`, *optional*, defaults to `3`):
            K, the number of steps of projected gradient ascent.
        ascent_step_size (`float` or `str`, *optional*):
            Step size eta, in the units of epsilon (squared with the rule `"gradient"`); with the rule `"normalized"`
            it counts half the l2 diameter of the ball, whichever ball that is. `"auto"` finds, by backtracking per example, one that satisfies
            inequality 25. If `None`, `2.5 * epsilon / ascent_steps`, or `"auto"` with the rule `"gradient"`.
        ascent_step_rule (`str`, *optional*, defaults to `"normalized"`):
            `"normalized"`: steps of unit norm per example; `"gradient"`: the gradient itself (the paper); `"sign"`.
    """

    _argument_group_name = _GROUP

    epsilon: float = field(
        default=0.25,
        metadata={"help": "Radius of the ball of perturbations. 0 trains without an adversary."},
    )
    epsilon_mode: str = _choice(
        "epsilon_mode",
        "relative",
        "'relative': epsilon counts mean l2 norms of the example's perturbed embeddings; 'absolute': in their units.",
    )
    perturbation_norm: str = _choice("perturbation_norm", "l2", "Norm of the ball of perturbations.")
    perturbation_scope: str = _choice(
        "perturbation_scope", "sequence", "One ball over all perturbed positions, or one per token."
    )
    perturbed_tokens: str = _choice(
        "perturbed_tokens",
        "prompt",
        "'prompt': every token before an action that is none itself; of these 'observation': what users and tools said, "
        "without markup, 'user' or 'tool': what they alone said; 'all': every token but padding.",
    )
    ascent_steps: int = field(default=3, metadata={"help": "K, the number of steps of projected gradient ascent."})
    ascent_step_size: float | str | None = field(
        default=None,
        metadata={
            "help": "Step size of the ascent, in the units of epsilon, or 'auto' for backtracking to inequality 25. "
            "Default: 2.5 * epsilon / ascent_steps; 'auto' with the rule 'gradient'."
        },
    )
    ascent_step_rule: str = _choice(
        "ascent_step_rule", "normalized", "Whether a step is the gradient of unit norm, the gradient, or its sign."
    )


@dataclass
class ActionLossField(AdversaryFields):
    r"""
    What the adversary of [`AAJRTrainer`] raises; with other trainers that is their own loss.

    Parameters:
        > Parameters that control what the adversary raises

        system_loss (`str`, *optional*, defaults to `"nll"`):
            What the adversary raises and training lowers. `"nll"`: negative log-likelihood of the action's tokens;
            `"expected_cost"`: expected system cost of the action, from the dataset's columns `actions` and
            `action_costs`.
    """

    _argument_group_name = _GROUP

    system_loss: str = _choice(
        "system_loss",
        "nll",
        "What the adversary raises and training lowers: the action's negative log-likelihood, or its expected system "
        "cost (dataset columns `actions` and `action_costs`).",
    )


@dataclass
class RegularizerFields:
    r"""
    What is penalised, what is trained, and what happens when something goes wrong.

    Parameters:
        > Parameters that control the outer loss (equation 21)

        clean_loss_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the system loss without perturbation, added to the adversarial one.

        > Parameters that control the regularizer (equation 20)

        regularizer (`str`, *optional*, defaults to `"aajr"`):
            Which Jacobian is penalised. `"aajr"`: along the ascent directions; `"global_spectral"`: its largest singular
            value at random interpolations between the batch's observations; `"local_spectral"`: the same at the points
            of the ascent; `"global_frobenius"`: its Frobenius norm, points as `"global_spectral"`;
            `"random_direction"`: along random directions at the points of the ascent; `"none"`.
        regularizer_lambda (`float`, *optional*, defaults to `1e-3`):
            Weight lambda of the penalty. `0` is adversarial training alone, unless there is an `amplification_budget`.
        amplification_budget (`float`, *optional*):
            gamma_adv, in the units of `aajr/amplification`. If set, lambda is found during training, from `regularizer_lambda`
            on, such that the mean amplification is at most this; examples within it are left alone (the penalty is
            `max(a_t - gamma_adv, 0)^2`; where the penalty is estimated from some points, in expectation). While lambda's
            warm-up lasts, its multiplier may fall, but not grow.
        penalty_output (`str`, *optional*, defaults to `"logits"`):
            Output whose Jacobian is penalised: `"logits"`, `"centered_logits"` (minus their mean over the vocabulary),
            `"log_probs"` or `"probs"`; `"fisher"`: log-probabilities, each weighted by the square root of its probability p, so
            that tokens which the agent would never say hardly count: the square is `u' J' (diag(p) - p p') J u` with J that of the
            logits, and p a constant when it is differentiated, by the parameters too; `"margin"`: of each action token,
            the largest logit of another token minus its own. With DPO and GRPO that token is the completion's, liked or not.
        penalty_reduction (`str`, *optional*, defaults to `"sum"`):
            `"sum"` over the action's tokens (the paper) or `"token_mean"`.
        jacobian_estimator (`str`, *optional*, defaults to `"auto"`):
            `"jvp"`: exact; `"finite_difference"`: central differences; `"auto"`: exact where the model supports it,
            central differences with a warning where it does not.
        power_iterations (`int`, *optional*, defaults to `3`):
            Power iterations of the spectral regularizers.
        penalty_trajectory (`str`, *optional*, defaults to `"all"`):
            Points of the ascent at which the penalty is evaluated: `"all"` of them (K, and those beyond the ball where
            `penalty_radius` is above 1), the `"last"`, or a `"sample"`: as many of all points of the micro-batch as it has
            examples, an unbiased estimate of all.
        penalty_radius (`float`, *optional*, defaults to `1.0`):
            How far out the penalty is evaluated, in epsilons. Above 1, for the penalty alone, the ascent goes on from delta_K, by
            `K * (penalty_radius - 1)` further steps (rounded up), in a ball as many times as large; R is the mean over the points
            within and beyond. The adversarial loss stays that of delta_K. For regularizers that are evaluated along the ascent.
        penalty_fraction (`float`, *optional*, defaults to `1.0`):
            Part of each micro-batch on which the penalty is evaluated, drawn at random. With the regularizer `"aajr"`
            and a clean loss, only its difference from what the clean and the adversarial pass tell is estimated.
        penalty_interval (`int`, *optional*, defaults to `1`):
            Evaluate the penalty every n-th optimizer step, with n times lambda; where part of it is known from the clean and the
            adversarial pass, that part counts once in every step.

        > Parameters that control the warm-up

        aajr_warmup_ratio (`float`, *optional*, defaults to `0.1`):
            Part of the training steps over which epsilon, lambda and the steps of the ascent grow, as the schedules say. Without
            one, the penalty of a sensitive model can be so steep that the first steps go astray.
        epsilon_schedule (`str`, *optional*, defaults to `"linear"`):
            `"linear"`: epsilon grows linearly from 0; `"cosine"`: slowly at first and at last; `"curriculum"`: linearly, but only
            in steps in which the agent succeeds under attack (not with GRPO); `"constant"`: it is there from the first step on.
        lambda_schedule (`str`, *optional*, defaults to `"linear"`):
            The same for the weight of the penalty.
        ascent_steps_schedule (`str`, *optional*, defaults to `"constant"`):
            The same for the number of ascent steps, from 1 to `ascent_steps`.
        curriculum_threshold (`float`, *optional*, defaults to `0.5`):
            Share of the examples answered rightly under attack (greedily, to the token; with DPO: preferred rightly), as a
            running mean, from which on a curriculum grows.

        > Parameters that control what is trained

        adapter (`str`, *optional*, defaults to `"full"`):
            `"full"`: all parameters, or a family of PEFT's adapters. Their updates have the rank of `adapter_rank`
            (`"lora"`, `"rslora"`, `"vera"`, `"miss"`, `"hra"`, `"delora"`, `"psoft"`, `"deft"`, `"peanut"`), a multiple or the square of it
            (`"gralora"`, `"lokr"`, `"loha"`), or any rank (`"dora"`, `"hira"`, `"randlora"`, `"shira"`, `"oft"`, `"boft"`,
            `"fourierft"`, `"waveft"`, `"c3a"`, `"glora"`); that of `"tinylora"` is 2.
        adapter_rank (`int`, *optional*, defaults to `16`):
            Size of the adapter, the larger, the more expressive: PEFT's `r` (`u` of `"tinylora"`), and for families whose own size means something
            else (`"randlora"`, `"oft"`, `"boft"`, `"fourierft"`, `"waveft"`, `"c3a"`) the size at which they train as many
            parameters as a LoRA of this rank, as nearly as the layers' widths allow.
        adapter_options (`dict[str, Any]` or `str`, *optional*):
            Fields of PEFT's configuration class, which win over what `adapter_rank` sets: a mapping, on the command line
            as JSON. `target_modules` are all linear layers but the LM head otherwise.
        freeze_embeddings (`bool`, *optional*, defaults to `False`):
            Keep the input embeddings fixed, and so the LM head where it is tied to them. A model with trainable embeddings can meet a penalty by moving them
            instead of becoming robust; compare methods with fixed ones.
        ema_decay (`float`, *optional*):
            If set, an exponential moving average of the trained weights is kept with this decay (0.999, say; less in the first
            steps), and saved in `output_dir/ema` beside them, a model like any other, by `trainer.save_final()`, with which
            `aajr train` ends.

        > Parameters that control what happens when something goes wrong

        on_nonfinite (`str`, *optional*, defaults to `"stop"`):
            Where a loss, a penalty, a perturbation or a gradient is not finite: `"stop"` before the weights change, or
            `"skip"` the step, count it (`aajr/skipped_steps`) and go on. In SFT, the first such step is kept in `output_dir`,
            for `aajr replay`.
    """

    _argument_group_name = _GROUP

    clean_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the system loss without perturbation, added to the adversarial one."}
    )
    regularizer: str = _choice("regularizer", "aajr", "Which Jacobian is penalised.")
    regularizer_lambda: float = field(
        default=1e-3,
        metadata={
            "help": "Weight of the penalty, or with amplification_budget where it begins. Without one, 0 is adversarial training "
            "alone."
        },
    )
    amplification_budget: float | None = field(
        default=None,
        metadata={
            "help": "If set, lambda is found such that the mean of aajr/amplification is at most this; only what is beyond it is "
            "penalised."
        },
    )
    penalty_output: str = _choice(
        "penalty_output",
        "logits",
        "Output whose Jacobian is penalised; 'fisher': log-probabilities weighted by the root of the probabilities; 'margin': "
        "the largest wrong logit minus the action token's.",
    )
    penalty_reduction: str = _choice(
        "penalty_reduction", "sum", "Whether the penalty is a sum or a mean over the action's tokens."
    )
    jacobian_estimator: str = _choice(
        "jacobian_estimator",
        "auto",
        "'jvp': exact; 'finite_difference': central differences; 'auto': exact where the model supports it.",
    )
    power_iterations: int = field(default=3, metadata={"help": "Power iterations of the spectral regularizers."})
    penalty_trajectory: str = _choice(
        "penalty_trajectory",
        "all",
        "Points of the ascent at which the penalty is evaluated: all, the last, or a sample of them (unbiased).",
    )
    penalty_radius: float = field(
        default=1.0,
        metadata={
            "help": "How far out the penalty is evaluated, in epsilons: above 1, the ascent goes on beyond the ball for the penalty "
            "alone."
        },
    )
    penalty_fraction: float = field(
        default=1.0, metadata={"help": "Random part of each micro-batch on which the penalty is evaluated."}
    )
    penalty_interval: int = field(
        default=1, metadata={"help": "Evaluate the penalty every n-th optimizer step, with n times lambda."}
    )
    aajr_warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Part of the training steps over which epsilon, lambda and ascent_steps grow as scheduled."},
    )
    epsilon_schedule: str = _choice(
        "epsilon_schedule",
        "linear",
        "How epsilon grows over the warm-up; 'curriculum': linearly, but only while the agent succeeds under attack.",
    )
    lambda_schedule: str = _choice(
        "lambda_schedule", "linear", "How the weight of the penalty grows over the warm-up, likewise."
    )
    ascent_steps_schedule: str = _choice(
        "ascent_steps_schedule", "constant", "How the number of ascent steps grows over the warm-up, likewise, from 1."
    )
    curriculum_threshold: float = field(
        default=0.5, metadata={"help": "Share of right answers under attack from which on a curriculum grows."}
    )
    adapter: str = _choice("adapter", "full", "What is trained: all parameters, or an adapter of this family.")
    adapter_rank: int = field(
        default=16,
        metadata={
            "help": "Size of the adapter: its rank, or the size at which it has as many parameters as a LoRA of that rank."
        },
    )
    adapter_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Fields of PEFT's configuration of the adapter, as a mapping or as JSON."}
    )
    freeze_embeddings: bool = field(
        default=False,
        metadata={"help": "Keep the input embeddings fixed, so that the penalty cannot be met by moving them."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of a moving average of the trained weights, saved as a second model in output_dir/ema."
        },
    )
    on_nonfinite: str = _choice(
        "on_nonfinite", "stop", "Where a number is not finite: stop before the weights change, or skip the step."
    )
