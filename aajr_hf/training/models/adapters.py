"""
The trained parameters: all of them, or a PEFT adapter of a chosen family and rank. This file maps `adapter_rank` to
the size of each family, and computes the largest rank that an update of this size can have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, TaskType
from peft.tuners.lokr.layer import factorization
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .adapter_trial import check_adapter, refused_by_peft
from .embeddings import embedding_shape
from .loading import SAVE_AGAIN, check_weights

if TYPE_CHECKING:
    from ..config.base import AAJRConfigMixin

# Name of a linear layer to its (out_features, in_features).
Shapes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Family:
    """
    Attributes:
        config: PEFT's configuration class.
        fields: Function from `adapter_rank` and the shapes of the adapted layers to the fields of this class.
        largest_rank: Function from the configuration, out_features and in_features to the largest rank of a layer's
            update.
    """

    config: type[PeftConfig]
    fields: Callable[[int, Shapes], dict[str, Any]]
    largest_rank: Callable[[PeftConfig, int, int], int]


def _nearest(sizes: Iterable[int], parameters: Callable[[int], float], wanted: float) -> int:
    """The size whose number of parameters is nearest, in ratio, to the wanted number."""
    return min(sizes, key=lambda size: abs(math.log(parameters(size) / wanted)))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _lora_parameters(rank: int, shapes: Shapes) -> int:
    return sum(rank * (o + i) for o, i in shapes.values())


def _randlora(rank: int, shapes: Shapes) -> dict[str, Any]:
    # `r` is the rank of one random basis. Together, the bases fill the layer: the larger r is, the fewer they are.
    def parameters(r: int) -> float:
        return sum(math.ceil(min(s) / r) * (r + min(s)) for s in shapes.values())

    sizes = range(1, min(min(s) for s in shapes.values()) + 1)
    r = _nearest(sizes, parameters, _lora_parameters(rank, shapes))
    return {"r": r, "randlora_alpha": 20 * r}


def _rotation(name: str, parameters: Callable[[int, int, int], float]):
    """Fields of a rotation with blocks of one size on its diagonal: the larger the blocks, the more parameters."""

    def fields(rank: int, shapes: Shapes) -> dict[str, Any]:
        sizes = [b for b in _divisors(math.gcd(*(i for _, i in shapes.values()))) if b > 1]
        if not sizes:
            raise ValueError(
                f"`adapter`: the widths of the adapted layers have no common divisor for `{name}`: choose another adapter."
            )
        total = lambda b: sum(parameters(b, o, i) for o, i in shapes.values())  # noqa: E731
        return {name: _nearest(sizes, total, _lora_parameters(rank, shapes))}

    return fields


def _per_layer(name: str, pattern: str, size: Callable[[int, int, int], int]):
    """Fields with one size per layer name (the smallest, if layers with the same name differ)."""

    def fields(rank: int, shapes: Shapes) -> dict[str, Any]:
        sizes: dict[str, int] = {}
        for layer, (o, i) in shapes.items():
            last = layer.rpartition(".")[2]
            sizes[last] = min(size(rank, o, i), sizes.get(last, o * i))
        return {name: min(sizes.values()), pattern: sizes}

    return fields


def _frequencies(rank: int, o: int, i: int) -> int:
    return min(rank * (o + i), o * i)


def _circulant_block(rank: int, o: int, i: int) -> int:
    return _nearest(_divisors(math.gcd(o, i)), lambda b: o * i / b, rank * (o + i))


def _gralora(rank: int, shapes: Shapes) -> dict[str, Any]:
    if rank % peft.GraloraConfig.gralora_k:
        raise ValueError(
            f"`adapter_rank` must be a multiple of {peft.GraloraConfig.gralora_k} (`gralora_k`) with gralora; got {rank}."
        )
    return {"r": rank, "alpha": 2 * rank}


def _shira(rank: int, shapes: Shapes) -> dict[str, Any]:
    largest = min(o * i // (o + i) for o, i in shapes.values())
    if rank > largest:
        raise ValueError(
            f"`adapter_rank` must be from 1 to {largest} with shira, which changes rank x (out + in) entries of each "
            f"layer; got {rank}."
        )
    return {"r": rank}


def _own_rank(config: PeftConfig, o: int, i: int) -> int:
    return min(config.r, o, i)


def _full_rank(config: PeftConfig, o: int, i: int) -> int:
    return min(o, i)


def _kronecker_rank(config: PeftConfig, o: int, i: int) -> int:
    (outer_o, inner_o), (outer_i, inner_i) = (factorization(n, config.decompose_factor) for n in (o, i))
    # A factor is decomposed if its longer side is more than twice the rank.
    outer, inner = min(outer_o, outer_i), min(inner_o, inner_i)
    if config.decompose_both and config.r < max(outer_o, outer_i) / 2:
        outer = min(outer, config.r)
    return outer * (min(inner, config.r) if config.r < max(inner_o, inner_i) / 2 else inner)


def _sized(**more: Callable[[int], Any]):
    """`adapter_rank` is PEFT's `r`; further fields follow from it."""
    return lambda rank, shapes: {"r": rank, **{name: value(rank) for name, value in more.items()}}


_LORA = {"lora_alpha": lambda rank: 2 * rank}
FAMILIES: dict[str, Family] = {
    "lora": Family(peft.LoraConfig, _sized(**_LORA), _own_rank),
    # Scale 8 / sqrt(r), which equals LoRA's scale at rank 16.
    "rslora": Family(peft.LoraConfig, _sized(lora_alpha=lambda _: 8, use_rslora=lambda _: True), _own_rank),
    "dora": Family(peft.LoraConfig, _sized(**_LORA, use_dora=lambda _: True), _full_rank),
    "hira": Family(peft.HiraConfig, _sized(), _full_rank),
    "randlora": Family(peft.RandLoraConfig, _randlora, _full_rank),
    "shira": Family(peft.ShiraConfig, _shira, _full_rank),
    "lokr": Family(peft.LoKrConfig, _sized(alpha=lambda rank: rank), _kronecker_rank),
    "gralora": Family(
        peft.GraloraConfig,
        _gralora,
        lambda c, o, i: min(c.gralora_k * c.r + c.hybrid_r, o, i),
    ),
    "loha": Family(peft.LoHaConfig, _sized(alpha=lambda rank: rank), lambda c, o, i: min(c.r**2, o, i)),
    "vera": Family(peft.VeraConfig, _sized(), _own_rank),
    "oft": Family(
        peft.OFTConfig,
        _rotation("oft_block_size", lambda b, o, i: i * (b - 1) / 2),
        # A rotation of odd size leaves one direction unchanged.
        lambda c, o, i: min(i // c.oft_block_size * (c.oft_block_size // 2 * 2), o),
    ),
    "boft": Family(peft.BOFTConfig, _rotation("boft_block_size", lambda b, o, i: i * b + o), _full_rank),
    "fourierft": Family(
        peft.FourierFTConfig,
        _per_layer("n_frequency", "n_frequency_pattern", _frequencies),
        lambda c, o, i: min(2 * c.n_frequency, o, i),
    ),
    "waveft": Family(
        peft.WaveFTConfig,
        _per_layer("n_frequency", "n_frequency_pattern", _frequencies),
        lambda c, o, i: min(c.n_frequency, o, i),
    ),
    "c3a": Family(peft.C3AConfig, _per_layer("block_size", "block_size_pattern", _circulant_block), _full_rank),
    "miss": Family(peft.MissConfig, _sized(), _own_rank),
    "hra": Family(peft.HRAConfig, _sized(), _own_rank),
    "delora": Family(peft.DeloraConfig, _sized(), _own_rank),
    "psoft": Family(peft.PsoftConfig, _sized(psoft_alpha=lambda rank: rank), _own_rank),
    "deft": Family(peft.DeftConfig, _sized(), _own_rank),
    "glora": Family(peft.GloraConfig, _sized(), _full_rank),
    "peanut": Family(peft.PeanutConfig, _sized(), _own_rank),
    "tinylora": Family(peft.TinyLoraConfig, lambda rank, shapes: {"u": rank}, _own_rank),
}


def linear_shape(layer: nn.Module) -> tuple[int, int] | None:
    """(out_features, in_features) of a linear layer; None for others."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else None


def linear_layers(model: PreTrainedModel) -> Shapes:
    """The layers that an adapter can adapt: all linear layers except the LM head."""
    head = model.get_output_embeddings()
    shapes = {name: linear_shape(layer) for name, layer in model.named_modules() if layer is not head}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def adapter_config(config: AAJRConfigMixin, model: str | PreTrainedModel) -> PeftConfig | None:
    """
    The PEFT configuration of `config.adapter` at `config.adapter_rank`, on all linear layers except the LM head unless
    `adapter_options` says otherwise; None for full fine-tuning. The weights of `model` are not read.

    Raises:
        ValueError: if the model and the family do not have the rank, an option or a module; the message names the
            valid ones.
    """
    options = dict(config.adapter_options or {})
    if config.adapter == "full":
        if options:
            raise ValueError(
                "`adapter_options` needs an adapter, but `adapter` is full: set `adapter`, or unset `adapter_options`."
            )
        return None
    family, described = FAMILIES[config.adapter], f"`adapter` {config.adapter} and `adapter_options` {options}"
    known = sorted(field.name for field in dataclasses.fields(family.config) if field.init)
    for name in options:
        if name not in known:
            raise ValueError(f"`adapter_options`: {config.adapter} has no field {name!r}, only {', '.join(known)}.")
    skeleton = skeleton_of(model, config) if isinstance(model, str) else model
    with refused_by_peft(described):
        check_other_modules(options, skeleton, "`adapter_options`")
        layers = linear_layers(skeleton)
        options.setdefault("target_modules", "all-linear")
        shapes = _targeted(layers, family.config(task_type=TaskType.CAUSAL_LM, **options))
        name, (o, i) = min(shapes.items(), key=lambda item: min(item[1]))
        if config.adapter_rank > min(o, i):
            raise ValueError(
                f"`adapter_rank` must be from 1 to {min(o, i)}, the smaller side of {name} ({o} x {i}); got "
                f"{config.adapter_rank}."
            )
        fields = family.fields(config.adapter_rank, shapes) | options
        made = family.config(task_type=TaskType.CAUSAL_LM, **fields)
    if isinstance(model, str):
        check_adapter(made, skeleton, described)
    return made


def load_adapter(folder: str, **kwargs) -> PeftModel:
    """
    Load the adapter in a local folder on its base model, in float32 unless `dtype` says otherwise.

    Raises:
        ValueError: if its weights, or those of its base model, are pickled, because reading them can run code.
    """
    if not (Path(folder) / "adapter_model.safetensors").is_file() and (Path(folder) / "adapter_model.bin").is_file():
        raise ValueError(
            f"The weights in {folder} are pickled (adapter_model.bin), and reading pickled files can run code: if you "
            "trust the adapter, load it with PEFT and save it again."
        )
    options = {"dtype": torch.float32, "use_safetensors": True} | kwargs
    if options["use_safetensors"]:
        check_weights(PeftConfig.from_pretrained(folder).base_model_name_or_path or "", SAVE_AGAIN)
    return AutoPeftModelForCausalLM.from_pretrained(folder, **options)


def _targeted(layers: Shapes, config: PeftConfig) -> Shapes:
    """The layers that the configuration names."""
    wanted = config.target_modules
    if wanted == "all-linear":
        return layers
    shapes = {name: shape for name, shape in layers.items() if check_target_module_exists(config, name)}
    missing = [wanted] if isinstance(wanted, str) and not shapes else []
    if not isinstance(wanted, str):
        missing = sorted(w for w in wanted if not any(name == w or name.endswith(f".{w}") for name in shapes))
    if missing or not shapes:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise ValueError(
            f"`adapter_options`: the model has no linear layer {', '.join(missing) or '(none is named)'} (`target_modules`); it has {names}."
        )
    return shapes


def check_other_modules(options: dict[str, Any], model: PreTrainedModel, field: str) -> None:
    """
    Refuse options of PEFT about modules and tokens that the model does not have; PEFT ignores some of them.

    Raises:
        ValueError: if there are such options; the message begins with the `field` that holds them.
    """
    names = [name for name, _ in model.named_modules()]
    for wanted in options.get("modules_to_save") or ():
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
            raise ValueError(f"{field}: the model has no module {wanted} (`modules_to_save`).")
    tokens = options.get("trainable_token_indices") or []
    lists = tokens.values() if isinstance(tokens, dict) else [tokens]
    rows, _ = embedding_shape(model)
    wrong = [index for part in lists for index in part if not 0 <= index < rows]
    if wrong:
        raise ValueError(
            f"{field}: `trainable_token_indices` must be from 0 to {rows - 1}, the number of the last embedding; got "
            f"{wrong[0]}."
        )


def skeleton_of(name: str, config: AAJRConfigMixin) -> PreTrainedModel:
    """The model without its weights."""
    options = config.model_init_kwargs or {}
    trust = options.get("trust_remote_code", config.trust_remote_code)
    with torch.device("meta"):
        model_config = AutoConfig.from_pretrained(name, revision=options.get("revision"), trust_remote_code=trust)
        return AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust)
