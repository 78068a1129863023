"""The fields that AAJR adds to the configuration of any TRL trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .choices import CHOICES

_GROUP = "adversary, regularizer and adapter (AAJRConfig)"


def choice(name: str, default: str, text: str):
    return field(default=default, metadata={"help": text, "choices": list(CHOICES[name])})


@dataclass
class AdversaryFields:
    r"""
    The adversary: which perturbations it may use, and how it searches for them.

    Parameters:
        > Parameters that control the perturbation

        epsilon (`float`, *optional*, defaults to `0.25`):
            Radius of the perturbation ball, in units of `epsilon_mode`. `0` trains without an adversary.
        epsilon_mode (`str`, *optional*, defaults to `"relative"`):
            Unit of epsilon. `"relative"`: the mean l2 norm of the example's perturbed embeddings, so that one value works for
            different models; the step size scales with it. `"absolute"`: the unit of the embeddings themselves.
        perturbation_norm (`str`, *optional*, defaults to `"l2"`):
            Norm of the ball: `"l2"` or `"linf"`. With `"linf"` every coordinate may move by epsilon, so choose a far smaller epsilon.
        perturbation_scope (`str`, *optional*, defaults to `"sequence"`):
            `"sequence"`: one ball over all perturbed tokens (the paper); `"token"`: one ball for each token.
        perturbed_tokens (`str`, *optional*, defaults to `"prompt"`):
            Tokens whose embeddings the adversary moves. `"prompt"`: every token before an action, except actions themselves.
            `"observation"`: only the words of users and tools, without the markup of the chat template; `"user"`, `"tool"`: only
            the words of one of them. `"incidental"`: of these, only numbers and names that the calls do not use, known from the
            calls and the JSON Schemas of the tools; in examples without such words, nothing is moved. `"all"`: every token except
            padding, actions included. DPO does not accept `"all"`, and GRPO accepts `"prompt"` only.

        perturbed_layer (`int`, *optional*, defaults to `0`):
            Where the adversary and the penalty act. `0`: at the embeddings. n: at the hidden states that enter decoder layer n,
            counted from 0; a relative epsilon is then a multiple of their mean norm. Ascent and penalty get cheaper, because
            gradients stop there. Attacks of `aajr evaluate` still move embeddings. Only SFT.

        > Parameters that control the ascent (equation 11)

        ascent_steps (`int`, *optional*, defaults to `3`):
            K, the number of steps of projected gradient ascent.
        ascent_step_size (`float` or `str`, *optional*):
            Step size eta, in units of epsilon (of epsilon squared with the rule `"gradient"`). With the rule `"normalized"` and a
            ball other than one l2 ball, it is scaled by the ball's half diameter over epsilon. `"auto"`: backtracking finds, for each example, a step that
            satisfies inequality 25. If `None`: `2.5 * epsilon / ascent_steps`, or `"auto"` with the rule `"gradient"`.
        ascent_step_rule (`str`, *optional*, defaults to `"normalized"`):
            Direction of a step. `"normalized"`: the gradient, scaled to unit norm for each example; `"gradient"`: the gradient
            itself (the paper); `"sign"`: its sign.
        ascent_start (`str`, *optional*, defaults to `"zero"`):
            Where the ascent begins. `"zero"`: at the unperturbed prompt (the paper); `"random"`: at a random point of the ball,
            another one for each example and step of training, which makes overfitting to a single ascent step less likely. Only
            SFT.
    """

    _argument_group_name = _GROUP

    epsilon: float = field(
        default=0.25,
        metadata={
            "help": "Radius of the perturbation ball, in units of `epsilon_mode`. 0 trains without an adversary."
        },
    )
    epsilon_mode: str = choice(
        "epsilon_mode",
        "relative",
        "Unit of epsilon: 'relative': the mean l2 norm of the example's perturbed embeddings; 'absolute': that of the embeddings.",
    )
    perturbation_norm: str = choice("perturbation_norm", "l2", "Norm of the perturbation ball.")
    perturbation_scope: str = choice(
        "perturbation_scope",
        "sequence",
        "'sequence': one ball over all perturbed tokens; 'token': one ball for each token.",
    )
    perturbed_tokens: str = choice(
        "perturbed_tokens",
        "prompt",
        "Tokens that the adversary moves. 'prompt': every token before an action; 'observation': only the words of users and "
        "tools, without markup; 'user', 'tool': only the words of one of them; 'incidental': only numbers and names that the calls do "
        "not use; 'all': every token except padding.",
    )
    perturbed_layer: int = field(
        default=0,
        metadata={
            "help": "Decoder layer at whose input adversary and penalty act, counted from 0. 0: at the embeddings."
        },
    )
    ascent_steps: int = field(default=3, metadata={"help": "K, the number of steps of projected gradient ascent."})
    ascent_step_size: float | str | None = field(
        default=None,
        metadata={
            "help": "Step size of the ascent, in units of epsilon; 'auto': backtracking, so that inequality 25 holds. "
            "Default: 2.5 * epsilon / ascent_steps, or 'auto' with the rule 'gradient'."
        },
    )
    ascent_step_rule: str = choice(
        "ascent_step_rule",
        "normalized",
        "Direction of a step: the gradient scaled to unit norm, the gradient itself, or its sign.",
    )
    ascent_start: str = choice(
        "ascent_start", "zero", "Where the ascent begins: at the unperturbed prompt, or at a random point of the ball."
    )


@dataclass
class RegularizerFields:
    r"""
    The penalty, its schedule, the trained parameters, and the reaction to numbers that are not finite.

    Parameters:
        > Parameters that control the outer loss (equation 21)

        clean_loss_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the loss on the unperturbed prompt, which is added to the adversarial loss.
        adversarial_loss_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the loss at the end of the ascent. With `0`, the ascent only gives the penalty its directions: with an
            `amplification_budget`, training minimises the nominal loss over the class F_ad or F_gamma of the paper (equations 18
            and 19). `0` needs a `clean_loss_weight` above 0.

        > Parameters that control the regularizer (equation 20)

        regularizer (`str`, *optional*, defaults to `"aajr"`):
            Penalised part of the Jacobian. `"aajr"`: its products with the ascent directions. `"global_spectral"`: its largest
            singular value, at random interpolations between the batch's observations. `"local_spectral"`: its largest singular
            value, at the points of the ascent. `"global_frobenius"`: its Frobenius norm, at the points of `"global_spectral"`.
            `"random_direction"`: its products with random directions, at the points of the ascent. `"matched"`: its products with
            random directions from the covariance of `nuisance`, at the points of the ascent (only SFT). `"none"`: no penalty.
        regularizer_lambda (`float`, *optional*, defaults to `1e-3`):
            Weight lambda of the penalty, in units of `lambda_mode`. With `0` and no `amplification_budget`, training is
            adversarial training alone.
        lambda_mode (`str`, *optional*, defaults to `"absolute"`):
            `"absolute"`: the loss contains lambda times the penalty R (the paper). `"relative"`: lambda times R over R's running
            mean, a constant for the gradient, which is then that of `lambda log(mean R)`. Lambda is the increase of the loss that
            a division of R by e may cost, so one value carries over between models, outputs and regularizers. The first optimizer
            step measures R and does not penalise it.
        amplification_budget (`float`, *optional*):
            Largest mean amplification gamma_adv, in units of `aajr/amplification`. If set, training finds lambda, beginning with
            `regularizer_lambda`, so that the mean amplification stays at most gamma_adv. The penalty is then
            `max(a_t - gamma_adv, 0)^2`, so that examples within the budget are not penalised (in expectation, where the penalty is
            estimated from some points). During lambda's warm-up the multiplier may fall, but not grow. With the regularizers
            `global_spectral` and `local_spectral`, it bounds the mean of the largest singular value that they penalise instead.
        sensitivity_floor (`float`, *optional*, defaults to `0.0`):
            Smallest sensitivity `||J v||` that is not penalised, where v is the unit direction from a training observation to
            another of its micro-batch whose right answer differs. The loss contains lambda times the mean of
            `max(floor - ||J v||, 0)^2`, in units of `aajr/sensitivity`, so that a large lambda does not make the agent dull.
            With an `amplification_budget` it is the lower end of a band. `0`: no floor. Only SFT, with a penalty.
        penalty_output (`str`, *optional*, defaults to `"logits"`):
            Output whose Jacobian is penalised. `"logits"`; `"centered_logits"`: minus their mean over the vocabulary;
            `"log_probs"`; `"probs"`. `"fisher"`: log-probabilities, each weighted by the square root of its probability p, so
            that improbable tokens hardly count; the squared norm is `u' J' (diag(p) - p p') J u`, where J is the Jacobian of the
            logits and p counts as a constant. `"margin"`: for each action token, the largest logit of another token minus its own
            logit. With DPO and GRPO, action tokens are the tokens of the completions, rejected ones included.
        penalty_reduction (`str`, *optional*, defaults to `"sum"`):
            `"sum"`: sum over the action's tokens (the paper); `"token_mean"`: mean over them.
        jacobian_estimator (`str`, *optional*, defaults to `"auto"`):
            How Jacobian products are computed. `"jvp"`: exactly, by forward-mode differentiation; `"finite_difference"`: by
            central differences; `"auto"`: exactly where the model supports it, otherwise by central differences, with a warning.
        power_iterations (`int`, *optional*, defaults to `3`):
            Number of power iterations of the spectral regularizers.
        penalty_trajectory (`str`, *optional*, defaults to `"all"`):
            Points of the ascent at which the penalty is evaluated. `"all"`: all K points, and with `penalty_radius` above 1 also
            the points beyond the ball. `"last"`: the last point. `"sample"`: one random point for each example, an unbiased
            estimate of `"all"`.
        penalty_radius (`float`, *optional*, defaults to `1.0`):
            Radius up to which the penalty is evaluated, as a multiple of epsilon. Above 1, the ascent continues from delta_K for
            the penalty alone: `K * (penalty_radius - 1)` further steps (rounded up) in a ball of this radius; R is the mean over
            all points. The adversarial loss is still evaluated at delta_K. Only for regularizers at the points of the ascent.
        penalty_fraction (`float`, *optional*, defaults to `1.0`):
            Fraction of each micro-batch on which the penalty is evaluated; the examples are drawn at random. With the regularizer
            `"aajr"` and a clean loss, a control variate from the clean and the adversarial pass lowers the estimate's variance.
        penalty_interval (`int`, *optional*, defaults to `1`):
            Evaluate the penalty every n-th optimizer step, with n times lambda. A control variate counts once in every step.

        > Parameters that control the warm-up

        aajr_warmup_ratio (`float`, *optional*, defaults to `0.1`):
            Fraction of the training steps during which epsilon, lambda and the number of ascent steps grow, as their schedules
            say. Without a warm-up, the penalty of a sensitive model can be so steep that training diverges at once.
        epsilon_schedule (`str`, *optional*, defaults to `"linear"`):
            Growth of epsilon during the warm-up. `"linear"`: from 0, linearly; `"cosine"`: slowly at the beginning and at the
            end; `"curriculum"`: linearly, but only in steps in which the agent succeeds under attack (not with GRPO);
            `"constant"`: no growth, the full epsilon from the first step.
        lambda_schedule (`str`, *optional*, defaults to `"linear"`):
            Growth of lambda during the warm-up, with the same choices.
        ascent_steps_schedule (`str`, *optional*, defaults to `"constant"`):
            Growth of the number of ascent steps from 1 to `ascent_steps`, with the same choices.
        curriculum_threshold (`float`, *optional*, defaults to `0.5`):
            A curriculum grows while the running mean of success under attack is at least this. Success: greedy decoding gives the
            action, token by token; with DPO: the chosen completion is preferred.

        > Parameters that control what is trained

        adapter (`str`, *optional*, defaults to `"full"`):
            Trained parameters: `"full"` for all of them, or a family of PEFT's adapters. Its update has rank `adapter_rank`
            (`"lora"`, `"rslora"`, `"vera"`, `"miss"`, `"hra"`, `"delora"`, `"psoft"`, `"deft"`, `"peanut"`), a multiple or the square of
            it (`"gralora"`, `"lokr"`, `"loha"`), any rank (`"dora"`, `"hira"`, `"randlora"`, `"shira"`, `"oft"`, `"boft"`,
            `"fourierft"`, `"waveft"`, `"c3a"`, `"glora"`), or rank 2 (`"tinylora"`).
        adapter_rank (`int`, *optional*, defaults to `16`):
            Size of the adapter: PEFT's `r` (`u` of `"tinylora"`). Families whose own size has another meaning (`"randlora"`,
            `"oft"`, `"boft"`, `"fourierft"`, `"waveft"`, `"c3a"`) get the size at which they have as many parameters as a LoRA of
            this rank, or nearly as many where the layers' widths allow no more.
        adapter_options (`dict[str, Any]` or `str`, *optional*):
            Fields of PEFT's configuration class: a mapping, on the command line as JSON. They override the fields that
            `adapter_rank` sets. By default, `target_modules` are all linear layers except the LM head.
        freeze_embeddings (`bool`, *optional*, defaults to `False`):
            Keep the input embeddings fixed, and with tied weights the LM head, too. With trainable embeddings a model can lower
            the penalty by moving its embeddings, without becoming robust: compare methods with fixed embeddings.
        ema_decay (`float`, *optional*):
            Decay of an exponential moving average of the trained weights, for example 0.999 (smaller in the first steps).
            `trainer.save_final()`, which `aajr train` calls at the end, saves the average as a second model in `output_dir/ema`.
            If `None`, there is no average.

        > Parameters that control numbers that are not finite

        on_nonfinite (`str`, *optional*, defaults to `"stop"`):
            Reaction to a loss, a penalty, a perturbation or a gradient that is not finite. `"stop"`: end the run before the
            weights change. `"skip"`: leave the step out, count it (`aajr/skipped_steps`) and go on. In SFT, the first such step is
            kept in `output_dir`, for `aajr replay`.
    """

    _argument_group_name = _GROUP

    clean_loss_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the loss on the unperturbed prompt, which is added to the adversarial loss."},
    )
    adversarial_loss_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the loss at the end of the ascent. 0: the ascent only gives the penalty its directions (needs "
            "clean_loss_weight)."
        },
    )
    regularizer: str = choice(
        "regularizer",
        "aajr",
        "Penalised part of the Jacobian: its products with the ascent directions (aajr) or with random ones, its largest singular value or its Frobenius norm, or none of it.",
    )
    regularizer_lambda: float = field(
        default=1e-3,
        metadata={
            "help": "Weight of the penalty; with amplification_budget, its first value. 0 without a budget: adversarial training "
            "alone."
        },
    )
    lambda_mode: str = choice(
        "lambda_mode",
        "absolute",
        "Unit of regularizer_lambda; relative: the running mean of the penalty, so that one value carries over between models.",
    )
    amplification_budget: float | None = field(
        default=None,
        metadata={
            "help": "Largest mean of aajr/amplification (with a spectral regularizer: of the norm that it penalises). If set, training "
            "finds lambda so that it holds; only the amplification beyond the budget is penalised."
        },
    )
    sensitivity_floor: float = field(
        default=0.0,
        metadata={
            "help": "Smallest sensitivity that is not penalised along directions between observations whose right answers differ. 0: no "
            "floor."
        },
    )
    penalty_output: str = choice(
        "penalty_output",
        "logits",
        "Output whose Jacobian is penalised; 'fisher': log-probabilities, weighted by the square roots of the probabilities; "
        "'margin': the largest logit of another token minus the logit of the action token.",
    )
    penalty_reduction: str = choice("penalty_reduction", "sum", "Sum or mean of the penalty over the action's tokens.")
    jacobian_estimator: str = choice(
        "jacobian_estimator",
        "auto",
        "How Jacobian products are computed: 'jvp': exactly; 'finite_difference': by central differences; 'auto': exactly where "
        "the model supports it.",
    )
    power_iterations: int = field(
        default=3, metadata={"help": "Number of power iterations of the spectral regularizers."}
    )
    penalty_trajectory: str = choice(
        "penalty_trajectory",
        "all",
        "Points of the ascent at which the penalty is evaluated: all of them, the last, or a random one for each example (unbiased).",
    )
    penalty_radius: float = field(
        default=1.0,
        metadata={
            "help": "Radius up to which the penalty is evaluated, as a multiple of epsilon. Above 1, the ascent continues beyond the "
            "ball for the penalty alone."
        },
    )
    penalty_fraction: float = field(
        default=1.0,
        metadata={"help": "Fraction of each micro-batch, drawn at random, on which the penalty is evaluated."},
    )
    penalty_interval: int = field(
        default=1, metadata={"help": "Evaluate the penalty every n-th optimizer step, with n times lambda."}
    )
    aajr_warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Fraction of the training steps during which epsilon, lambda and the ascent's steps grow."},
    )
    epsilon_schedule: str = choice(
        "epsilon_schedule",
        "linear",
        "Growth of epsilon during the warm-up; 'curriculum': linear, but only while the agent succeeds under attack.",
    )
    lambda_schedule: str = choice("lambda_schedule", "linear", "Growth of lambda during the warm-up.")
    ascent_steps_schedule: str = choice(
        "ascent_steps_schedule", "constant", "Growth of the number of ascent steps during the warm-up, from 1."
    )
    curriculum_threshold: float = field(
        default=0.5,
        metadata={"help": "A curriculum grows while the share of right answers under attack is at least this."},
    )
    adapter: str = choice("adapter", "full", "Trained parameters: all of them (full), or an adapter of this family.")
    adapter_rank: int = field(
        default=16,
        metadata={
            "help": "Size of the adapter: its rank, or the size at which it has as many parameters as a LoRA of this rank."
        },
    )
    adapter_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Fields of PEFT's configuration of the adapter: a mapping, on the command line as JSON."},
    )
    freeze_embeddings: bool = field(
        default=False,
        metadata={"help": "Keep the input embeddings fixed, so that moving them cannot lower the penalty."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of an exponential moving average of the trained weights, saved as a second model in output_dir/ema."
        },
    )
    on_nonfinite: str = choice(
        "on_nonfinite",
        "stop",
        "Reaction to a number that is not finite: stop before the weights change, or skip the step.",
    )
