"""What an adapter in a model can do and what it costs: the table that is printed before training."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from rich.table import Table
from torch import nn

from .adapters import FAMILIES, linear_shape


@dataclass(frozen=True)
class AdaptedLayers:
    """
    Attributes:
        name: The last part of the layers' names, such as `q_proj`.
        count: Number of these layers.
        shape: Their (out_features, in_features).
        trainable: Number of trainable parameters in all of them.
        largest_rank: The largest possible rank of one layer's update; None for an adapter that `AAJRConfig.adapter`
            does not offer.
    """

    name: str
    count: int
    shape: tuple[int, int]
    trainable: int
    largest_rank: int | None


@dataclass(frozen=True)
class AdapterReport:
    """
    Attributes:
        adapter: Name in `AAJRConfig.adapter`, or PEFT's.
        layers: The linear layers with trainable parameters, by name and shape.
        trainable, total: Numbers of parameters of the whole model.
        optimizer_bytes: Memory of Adam's two moments in the parameters' own types.
        mergeable: Whether the update can be written into the base model's weights; None for full fine-tuning.
        starts_as_base: Whether the update is zero before training.
        estimator: Estimator of the Jacobian products (`"jvp"` is exact); None without a penalty.
    """

    adapter: str
    layers: list[AdaptedLayers]
    trainable: int
    total: int
    optimizer_bytes: int
    mergeable: bool | None
    starts_as_base: bool
    estimator: str | None

    def table(self) -> Table:
        """The report as a table of rich, for a terminal."""
        table = Table(title=f"Trained: {self.adapter}", title_justify="left", caption=self._caption())
        table.caption_justify = "left"
        for name in ("layers", "shape", "trainable", "largest rank of the update"):
            table.add_column(name, justify="left" if name == "layers" else "right")
        for row in self.layers:
            rank = "unknown" if row.largest_rank is None else f"{row.largest_rank} of {min(row.shape)}"
            table.add_row(f"{row.count} x {row.name}", "{} x {}".format(*row.shape), f"{row.trainable:,}", rank)
        others = self.trainable - sum(row.trainable for row in self.layers)
        if others:
            table.add_row("everything else", "", f"{others:,}", "")
        return table

    def _caption(self) -> str:
        estimator = {None: "no penalty", "jvp": "exact", "finite_difference": "by finite differences"}
        lines = [
            f"{self.trainable:,} of {self.total:,} parameters ({self.trainable / self.total:.2%}); "
            f"Adam's moments: {self.optimizer_bytes / 2**20:,.1f} MiB",
            f"Jacobian products: {estimator[self.estimator]}",
        ]
        if self.mergeable is not None:
            lines[1] += f"; can{'' if self.mergeable else 'not'} be merged into the base model"
        if not self.starts_as_base:
            lines.append(
                "PEFT begins with a random update, so the model differs from the base model before the first step."
            )
        return "\n".join(lines)


def adapter_report(model: nn.Module, estimator: str | None = None) -> AdapterReport:
    """
    Describe the trained parameters of a model, with or without an adapter.

    Args:
        model: The model of a trainer, `trainer.model`.
        estimator: `trainer.estimator`.
    """
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    found: dict[tuple, list[int]] = {}
    for path, layer in model.named_modules():
        if config is None:
            shape, adapted = linear_shape(layer), True
        else:
            adapted = isinstance(layer, BaseTunerLayer)
            shape = linear_shape(layer.get_base_layer()) if adapted else None
        trainable = _trainable(layer)
        if adapted and shape is not None and trainable:
            rank = min(shape) if config is None else _largest_rank(config, layer, shape)
            found.setdefault((path.rpartition(".")[2], shape, rank), []).append(trainable)
    return AdapterReport(
        adapter="all parameters" if config is None else family_name(config),
        layers=[
            AdaptedLayers(name, len(sizes), shape, sum(sizes), rank) for (name, shape, rank), sizes in found.items()
        ],
        trainable=_trainable(model),
        total=sum(_size(p) for p in model.parameters()),
        optimizer_bytes=sum(2 * _size(p) * p.element_size() for p in model.parameters() if p.requires_grad),
        mergeable=None if config is None else all(hasattr(layer, "merge") for layer in _tuner_layers(model)),
        starts_as_base=config is None or _starts_as_base(config),
        estimator=estimator,
    )


def family_name(config: PeftConfig) -> str:
    """The adapter's name in `AAJRConfig.adapter`, or else PEFT's own name."""
    variants = {"use_dora": "dora", "use_rslora": "rslora"}
    for field, name in variants.items():
        if getattr(config, field, False):
            return name
    named = [name for name, family in FAMILIES.items() if type(config) is family.config]
    return named[0] if named else config.peft_type.value


def _starts_as_base(config: PeftConfig) -> bool:
    if config.peft_type == PeftType.HRA and config.r % 2:
        return False  # reflections cancel in pairs
    return getattr(config, "init_weights", True) is True and bool(getattr(config, "init_lora_weights", True))


def _trainable(module: nn.Module) -> int:
    return sum(_size(p) for p in module.parameters() if p.requires_grad)


def _size(parameter: nn.Parameter) -> int:
    # A parameter that ZeRO-3 has split counts with its full size.
    return getattr(parameter, "ds_numel", parameter.numel())


def _tuner_layers(model: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _largest_rank(config: PeftConfig, layer: BaseTunerLayer, shape: tuple[int, int]) -> int | None:
    family = FAMILIES.get(family_name(config))
    if family is None:
        return None
    # PEFT's patterns of ranks and sizes may give this layer a size of its own.
    built = copy.copy(config)
    for name in ("r", "n_frequency", "oft_block_size"):
        sizes = getattr(layer, name, None) or getattr(layer, f"{config.peft_type.value.lower()}_{name}", None)
        if sizes and hasattr(config, name):
            setattr(built, name, sizes[layer.active_adapters[0]])
    return family.largest_rank(built, *shape)
