"""The cases of `benchmark.py`: shapes, ways of training, and the expected number of operations of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import yaml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class Model(NamedTuple):
    """Sizes of a Llama model. Most names in `MODELS` give the parameters of the layers, without the embeddings."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int | None = None  # as many as heads, if None


MODELS = {
    "5M": Model(6, 256, 704, 4),
    "15M": Model(9, 384, 1024, 6),
    "60M": Model(12, 640, 1728, 10),
    "0.5B": Model(24, 1280, 3456, 20),
    "1B": Model(20, 2048, 5504, 16),
    "smollm2-135m": Model(30, 576, 1536, 9, 3),
}


@dataclass(frozen=True)
class Case:
    """One shape. Every variant is measured on it, with the same data."""

    name: str
    device: str
    model: Model
    vocabulary: int = 32_000
    length: int = 32
    batch: int = 16
    action_tokens: int = 8
    ascent_steps: int = 3
    prefix: int = 0  # tokens that all examples share and nothing perturbs, such as a system prompt
    together: bool = True  # whether all ways of training fit into memory at once

    @property
    def accelerated(self) -> bool:
        return self.device != "cpu"

    @property
    def layer_parameters(self) -> int:
        """
        Number of weights of the linear layers, without embeddings and LM head: attention has four matrices, the MLP
        three.
        """
        layers, hidden, intermediate, heads, key_value_heads = self.model
        keys = hidden * (key_value_heads or heads) // heads
        return layers * (2 * hidden * (hidden + keys) + 3 * hidden * intermediate)

    def layer_flops(self, first: int = 0) -> int:
        """
        One forward of all layers on the tokens of one batch from `first` on; attention's two products are counted
        without the causal half.
        """
        tokens = self.batch * (self.length - first)
        return tokens * (2 * self.layer_parameters + 4 * self.model.layers * self.length * self.model.hidden)

    def head_flops(self, positions: int) -> int:
        """Return the operations of the LM head at some positions of each example."""
        return 2 * self.model.hidden * self.vocabulary * self.batch * positions

    def forward_flops(self) -> int:
        """Return F: the operations of one forward of the policy, with logits only at the action's positions."""
        return self.layer_flops() + self.head_flops(self.action_tokens)

    def sft_forward_flops(self) -> int:
        """
        Return the operations of TRL's forward: its fused LM head scores every position, except on devices with Triton
        kernels.
        """
        return self.layer_flops() + self.head_flops(self.action_tokens if self.accelerated else self.length - 1)


@dataclass(frozen=True)
class Variant:
    """One way of training: its name and the fields of its configuration."""

    name: str
    fields: dict  # fields of AAJRConfig; None stands for TRL's own trainer and configuration
    checkpointing: bool = False
    timed: bool = True
    sign_loop: bool = False  # C-AdvTrain's loop of sign steps on TRL's trainer

    @property
    def penalised(self) -> bool:
        return bool(self.fields) and self.fields["regularizer_lambda"] > 0

    @property
    def ascends(self) -> bool:
        return bool(self.fields) and self.fields["epsilon"] > 0

    @property
    def shares_forwards(self) -> bool:
        """Whether its jvp reuse what the ascent has computed at the same points."""
        whole = self.fields.get("penalty_trajectory", "all") == "all" and self.fields.get("penalty_fraction", 1.0) == 1
        along = self.fields["regularizer"] == "aajr" and self.fields["jacobian_estimator"] == "jvp"
        return whole and along and not self.checkpointing

    @property
    def interval(self) -> int:
        """Number of optimizer steps after which the cost repeats; every measurement covers a multiple of it."""
        return self.fields.get("penalty_interval", 1) if self.fields else 1


def recipe_fields(recipe: str, *names: str) -> dict:
    """Return the given fields of a shipped recipe, without the fields that it leaves at their defaults."""
    settings = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    return {name: settings[name] for name in names if name in settings}


def variants(preset: str) -> list[Variant]:
    """Return the ways of training of a preset: `quick` leaves out the ways that its ratios do not need."""
    if preset == "smollm2":
        return _smollm2_variants()
    adversarial = {"epsilon": 0.25, "regularizer": "none", "regularizer_lambda": 0.0}
    exact = adversarial | {"regularizer": "aajr", "regularizer_lambda": 1e-3, "jacobian_estimator": "jvp"}
    amortised = recipe_fields(
        "congestion/aajr-amortised", "penalty_trajectory", "penalty_fraction", "penalty_interval"
    )
    # The recipe's penalty takes its control variate from the clean pass, so both sides of the comparison have a clean
    # pass.
    clean = recipe_fields("congestion/aajr-amortised", "clean_loss_weight")
    spectral = recipe_fields(
        "congestion/global", "regularizer", "power_iterations", "penalty_fraction", "penalty_interval"
    )
    chosen = [
        Variant("sft", None),
        Variant("plain", {"epsilon": 0.0, "regularizer_lambda": 0.0}),
        Variant("adversarial", adversarial),
        Variant("adversarial_checkpointed", adversarial, checkpointing=True, timed=preset == "full"),
        Variant("exact", exact),
        Variant("exact_checkpointed", exact, checkpointing=True, timed=preset == "full"),
        Variant("adversarial_and_clean", adversarial | clean),
        Variant("amortised", exact | amortised | clean),
    ]
    if preset == "full":
        chosen.append(Variant("finite_difference", exact | {"jacobian_estimator": "finite_difference"}))
        chosen.append(Variant("global_spectral", exact | spectral))
    return chosen


def _smollm2_variants() -> list[Variant]:
    """Ways of training a real model; each takes up to 5 GiB on a CPU."""
    adversarial = {"epsilon": 0.25, "regularizer": "none", "regularizer_lambda": 0.0}
    exact = adversarial | {"regularizer": "aajr", "regularizer_lambda": 1e-3, "jacobian_estimator": "jvp"}
    fields = ("penalty_trajectory", "penalty_fraction", "clean_loss_weight")
    recipe = recipe_fields("smollm2-135m/congestion/aajr", *fields)
    lora = {"adapter": "lora", "adapter_rank": 16}
    return [
        Variant("sft", None),
        Variant("sign_loop", None, sign_loop=True),
        Variant("adversarial", adversarial),
        Variant("exact", exact),
        Variant("adversarial_and_clean", adversarial | {"clean_loss_weight": recipe["clean_loss_weight"]}),
        Variant("amortised", exact | recipe),
        Variant("lora_adversarial", adversarial | lora),
        Variant("lora_exact", exact | lora),
        Variant("adversarial_checkpointed", adversarial, checkpointing=True, timed=False),
        Variant("exact_checkpointed", exact, checkpointing=True, timed=False),
    ]


def theoretical_flops(case: Case, variant: Variant) -> float:
    """
    Return the operations of one optimizer step, averaged over the penalty's interval. A forward with a backward for all
    weights takes 3F, an input gradient 2F, and a jvp with its backward 6F. The two evaluations of a central difference
    with their backward also take 6F. With activation checkpointing, a pass runs its layers a second time, and a jvp
    runs its layers and their tangents a second time. Without checkpointing, a jvp at all points of all examples reuses
    the forwards of the ascent, which saves F for each point. If it reuses nothing, the ascent computes a common prefix
    once, without checkpointing also for one example only. With LoRA, a pass computes almost no gradients of weights.
    """
    forward = case.forward_flops()
    again = case.layer_flops() if variant.checkpointing else 0
    if variant.sign_loop:
        # Ten steps and the outer pass, each with the gradients of all weights.
        return 11 * 3 * case.sft_forward_flops()
    if not variant.ascends:
        return 3 * case.sft_forward_flops() + again
    passes = 2 if variant.fields.get("clean_loss_weight", 0.0) > 0 else 1
    gradient = 2 if "adapter" in variant.fields else 3
    known = case.prefix if not variant.checkpointing and not (variant.penalised and variant.shares_forwards) else 0
    ascent = 2 * (case.layer_flops(known) + case.head_flops(case.action_tokens)) + again
    flops = case.ascent_steps * ascent + passes * (gradient * forward + again)
    flops += (case.layer_flops() - case.layer_flops(known)) / case.batch
    if not variant.penalised:
        return flops
    fields = variant.fields
    if fields["regularizer"] == "global_spectral":
        # The vector-Jacobian products need one forward; each power iteration is a jvp (2F) and a pull-back (F).
        penalty = forward + 3 * forward * fields["power_iterations"] + 6 * forward + 2 * again
    else:
        points = case.ascent_steps if fields.get("penalty_trajectory", "all") == "all" else 1
        penalty = points * ((2 * gradient - variant.shares_forwards) * forward + 2 * again)
    rows = max(round(fields.get("penalty_fraction", 1.0) * case.batch), 1)
    return flops + penalty * rows / case.batch / variant.interval


def cases(preset: str, device: str) -> list[Case]:
    """
    Return the cases of a preset: `quick` is the base alone, `full` also changes one dimension of the base at a time.
    `smollm2` has the shape of SmolLM2-135M on the world `congestion`: 28 tokens of a system prompt, then an observation
    of 36 tokens and an action.
    """
    if preset == "smollm2":
        shape = {"vocabulary": 49_152, "length": 72, "batch": 8, "prefix": 28, "together": False}
        real = Case("smollm2-135m", device, MODELS["smollm2-135m"], ascent_steps=1, **shape)
        return [real, *(replace(real, name=f"smollm2-135m-K-{steps}", ascent_steps=steps) for steps in (3, 5))]
    if device == "cpu":
        base = Case("base", device, MODELS["15M"])
        lengths, models = (64, 128), ("5M", "60M")
    else:
        base = Case("base", device, MODELS["0.5B"], length=512, batch=4, action_tokens=64)
        lengths, models = (256, 1024), ("1B",)
    if preset == "quick":
        return [base]
    return [
        base,
        *(replace(base, name=f"length-{length}", length=length) for length in lengths),
        *(replace(base, name=f"K-{steps}", ascent_steps=steps) for steps in (1, 5)),
        replace(base, name="vocabulary-150k", vocabulary=150_000),
        *(replace(base, name=f"model-{name}", model=MODELS[name]) for name in models),
    ]
