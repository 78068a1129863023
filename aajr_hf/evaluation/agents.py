"""Loading an agent: a model or an adapter, with its tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..training.models.adapters import load_adapter
from ..training.models.loading import check_model_name, load_tokenizer
from ..training.runs.checkpoints import INCOMPLETE


def load_agent(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    The model of a folder or a Hub name, in float32 on the accelerator if there is one, and its tokenizer. An adapter is
    merged into its base model in memory, which is faster, where PEFT can do that.

    Raises:
        OSError, ValueError: if there is no such model, or it has no tokenizer with a chat template.
    """
    check_model_name(path)
    if Path(path).exists() and not Path(path).is_dir():
        raise ValueError(f"{path} is a file: give the model's folder.")
    if (Path(path) / INCOMPLETE).exists():
        raise ValueError(f"The model in {path} was not written to its end: resume its run, or give another.")
    try:
        if (Path(path) / "adapter_config.json").is_file():
            model = _with_adapter(path)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    except (OSError, SafetensorError) as error:  # which, without a network, do not name what was asked for
        check_model_name(path, tried=True)
        nor_here = "" if Path(path).exists() else " (there is no such folder here, either)"
        raise OSError(f"{path} cannot be loaded{nor_here}: {error}") from error
    tokenizer = load_tokenizer(path, padding_side="right")
    if tokenizer.chat_template is None:
        raise ValueError(f"The tokenizer of {path} has no chat template, so its prompts cannot be rendered.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device).eval(), tokenizer


def _with_adapter(path: str) -> nn.Module:
    load = functools.partial(load_adapter, path)
    try:
        return load().merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError):
        # Anew: some of its layers may be merged already.
        return load()
