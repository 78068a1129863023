"""
Adapters that were saved before: a run goes on training one (its model is the adapter), or is resumed from a
checkpoint with one. Either way it must be the adapter that the run's settings describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers.utils import find_adapter_config_file

from .adapter_report import family_name
from .adapters import adapter_config, load_adapter

if TYPE_CHECKING:
    from ..config.base import AAJRConfigMixin

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Files of an adapter and its tokenizer on the Hub.
_FILES = ["adapter_*", "*.json", "*.jinja", "*.model", "*.txt"]


def adapter_folder(name: str | Path, revision: str | None = None) -> str | None:
    """
    The local folder of the adapter that a model's name means: a folder, or a repository on the Hub, whose files are
    downloaded. None if it is no adapter, or if that cannot be found out: whoever loads the model then says why.

    Args:
        revision: Of the repository on the Hub.

    Raises:
        OSError: if the download fails.
    """
    if (Path(name) / _CONFIG).is_file():
        return str(name)
    if Path(name).exists() or Path(name).is_absolute() or str(name).startswith((".", "~")):
        return None
    try:
        if find_adapter_config_file(str(name), revision=revision) is None:
            return None
    except (OSError, ValueError):
        return None
    # Without the checkpoints, which have folders of their own.
    return snapshot_download(str(name), revision=revision, allow_patterns=_FILES, ignore_patterns="*/*")


def saved_adapter(name: str | Path, revision: str | None = None) -> PeftConfig | None:
    """
    The configuration of the adapter that a model's name means ([`adapter_folder`]); None if it is no adapter.

    Raises:
        ValueError: if it cannot be read.
    """
    folder = adapter_folder(name, revision)
    if folder is None:
        return None
    try:
        return PeftConfig.from_pretrained(folder)
    except Exception as error:  # a damaged file can raise any error
        raise ValueError(f"The adapter in {name} cannot be read: {error}") from error


def base_model(name: str, revision: str | None = None) -> str:
    """The base model of an adapter, or else the model itself."""
    adapter = saved_adapter(name, revision)
    return name if adapter is None else adapter.base_model_name_or_path


def tokenizer_place(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The name and the revision of a model's tokenizer: of an adapter that was saved without one, its base model's."""
    folder = adapter_folder(name, revision)
    if folder is None:
        return name, revision
    if (Path(folder) / "tokenizer_config.json").is_file():
        return folder, None
    adapter = saved_adapter(folder)
    return adapter.base_model_name_or_path, adapter.revision


def load_to_train_on(name: str, args: AAJRConfigMixin, **options) -> PeftModel:
    """
    Load an adapter on its base model, to go on training it. The model's name is the place of its tokenizer, so that TRL
    finds it.

    Args:
        name: The adapter's folder, or its repository on the Hub, of which `args` may name the revision.
        args: `adapter` may be full, which describes no adapter, or must describe this one.
        options: Arguments of the base model's `from_pretrained`, with priority over `model_init_kwargs`.

    Raises:
        ValueError: if `args` describe another adapter (names the field), or it cannot be loaded.
    """
    given = args.model_init_kwargs or {}
    folder = adapter_folder(name, given.get("revision"))
    found = saved_adapter(folder)
    if args.adapter != "full" and (reason := why_another(args, found.base_model_name_or_path, found)) is not None:
        raise ValueError(
            f"{reason}: correct it, or leave `adapter` out to go on training the adapter in {name}, or write it into "
            "its base model with `aajr merge` to train another on it."
        )
    # The revision is that of the adapter; its configuration has the base model's.
    init = {k: v for k, v in given.items() if k != "revision"}
    init.setdefault("trust_remote_code", args.trust_remote_code)
    init = {"dtype": "float32", "use_safetensors": True} | init | options
    try:
        model = load_adapter(folder, is_trainable=True, **init)
    except OSError as error:
        base = found.base_model_name_or_path
        raise ValueError(f"{name} is an adapter, and its base model {base} cannot be loaded: {error}") from error
    model.config.name_or_path, _ = tokenizer_place(folder)
    return model


def why_another(args: AAJRConfigMixin, base: str | nn.Module, found: PeftConfig | None) -> str | None:
    """
    Which of the fields `adapter`, `adapter_rank` and `adapter_options` describes another adapter than a saved one
    (None for a whole model), as a sentence without its full stop; None if they describe it.
    """
    if found is None and args.adapter == "full":
        return None
    if found is None:
        return f"`adapter` is {args.adapter}, but the weights that were saved are those of a whole model"
    kind = family_name(found)
    if kind != args.adapter:
        return f"`adapter` is {args.adapter}, but the adapter that was saved is {_named(kind, found)}"
    wanted = adapter_config(args, base)
    options = args.adapter_options or {}
    return differing_field(wanted, found, {name: f"`adapter_options`: {name}" for name in options}) or differing_field(
        wanted, found, dict.fromkeys(_sized(wanted), "`adapter_rank`"), args.adapter_rank
    )


def differing_field(
    wanted: PeftConfig, found: PeftConfig, names: Mapping[str, str], value: object = None
) -> str | None:
    """
    The first field of two configurations of one class with different values, as a sentence without its full stop; None
    if there is none.

    Args:
        names: The fields of PEFT that are compared, each with the user's name for it.
        value: The user's value, if it is not the value of PEFT's field.
    """
    for name, told in names.items():
        one, other = getattr(wanted, name), getattr(found, name, None)
        if name == "target_modules" and not (isinstance(one, set | list) and isinstance(other, set | list)):
            continue  # a pattern, which PEFT replaces by the names of the layers
        if isinstance(one, set | list) and isinstance(other, set | list):
            one, other = sorted(one), sorted(other)
        if one != other:
            said = one if value is None else value
            return f"{told} is {said}, but the adapter that was saved has {name} = {other}"
    return None


def why_other_weights(model: nn.Module, folder: Path) -> str | None:
    """
    Why the weights that a checkpoint has in one file are not those of a model; None if they are, as far as names and
    shapes say, or if the checkpoint has no such file.
    """
    is_adapter = isinstance(model, PeftModel)
    if is_adapter != (folder / _CONFIG).is_file():
        kinds = ("a whole model", "an adapter")
        return f"it is {kinds[not is_adapter]}, and this run trains {kinds[is_adapter]}"
    file = folder / (_WEIGHTS if is_adapter else "model.safetensors")
    if not file.is_file():
        return None
    expected = get_peft_model_state_dict(model, save_embedding_layers=False) if is_adapter else model.state_dict()
    with safe_open(file, framework="pt") as saved:
        shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
    for name, weight in expected.items():
        if name in shapes and shapes[name] != tuple(weight.shape):
            return f"its {name} has the shape {shapes[name]}, and this run's has {tuple(weight.shape)}"
    missing = next((name for name in expected if name not in shapes), None)
    # A whole model is saved without tied weights, and under other names if its architecture converts them.
    return f"it has no {missing}" if is_adapter and missing is not None else None


def _named(kind: str, config: PeftConfig) -> str:
    rank = getattr(config, "r", None)
    return kind if rank is None else f"{kind} with rank {rank}"


def _sized(config: PeftConfig) -> list[str]:
    """Fields of PEFT that follow from `adapter_rank`."""
    names = ("r", "n_frequency", "oft_block_size", "boft_block_size", "block_size", "u")
    return [name for name in names if hasattr(config, name)]
