"""Agents: a model or an adapter each, with its tokenizer, and how they are loaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..training.data.collation import encode_examples
from ..training.models.adapters import load_adapter
from ..training.models.loading import check_model_name, load_tokenizer
from ..training.runs.checkpoints import INCOMPLETE


@dataclass(frozen=True, eq=False)
class Agent:
    """
    Attributes:
        name: Under which it is measured and shown.
        folder: From which it was loaded, or its name on the Hub.
        model, tokenizer: What [`load_agent`] gives.
    """

    name: str
    folder: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


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


def why_not(source: Agent, target: Agent, rows: list[dict[str, Any]]) -> str | None:
    """
    Why perturbations of one agent are none of another; None where they are: both split the rows into the same tokens and have embeddings
    of one width.
    """
    widths = [agent.model.get_input_embeddings().embedding_dim for agent in (source, target)]
    if widths[0] != widths[1]:
        return f"its embeddings have {widths[0]} numbers, those of the attacked model {widths[1]}"
    inputs = [encode_examples(agent.tokenizer, rows, candidates=False) for agent in (source, target)]
    if not all(torch.equal(inputs[0][name], inputs[1][name]) for name in ("input_ids", "labels")):
        return "its tokenizer splits the prompts into other tokens than the attacked model's"
    return None
