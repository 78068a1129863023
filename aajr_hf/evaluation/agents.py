"""Load agents: a model or an adapter, with its tokenizer."""

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
from ..training.models.embeddings import embedding_shape, merging_changes_the_head
from ..training.models.loading import SAVE_AGAIN, check_model_name, check_weights, load_tokenizer
from ..training.runs.checkpoints import INCOMPLETE


@dataclass(frozen=True, eq=False)
class Agent:
    """
    A loaded agent.

    Attributes:
        name: Name of the agent in results, tables and plots.
        folder: Folder that the agent was loaded from, or its name on the Hub.
        model, tokenizer: Results of [`load_agent`].
        temperature: Temperature at which its answers are sampled.
    """

    name: str
    folder: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    temperature: float = 1.0


def load_agent(
    path: str, *, dtype: str = "float32", device_map: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Load a model from a folder or the Hub, on the accelerator if there is one, and load its tokenizer. An adapter is
    merged into its base model in memory if PEFT supports it, because a merged model is faster.

    Args:
        dtype: Type of the weights.
        device_map: How Accelerate spreads the model over several devices; None for a single device.

    Raises:
        OSError, ValueError: if the model does not exist or is incomplete, or its tokenizer has no chat template.
    """
    check_model_name(path)
    if Path(path).exists() and not Path(path).is_dir():
        raise ValueError(f"{path} is a file: give the folder of the model.")
    if (Path(path) / INCOMPLETE).exists():
        raise ValueError(f"The model in {path} is incomplete: resume its run, or give another model.")
    check_weights(path, SAVE_AGAIN)
    options = {"dtype": getattr(torch, dtype)} | ({} if device_map is None else {"device_map": device_map})
    try:
        if (Path(path) / "adapter_config.json").is_file():
            model = _with_adapter(path, options)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **options)
    except (OSError, SafetensorError) as error:  # without a network, these do not name the model
        check_model_name(path, tried=True)
        nor_here = "" if Path(path).exists() else " (and no such folder exists here)"
        raise OSError(f"{path} cannot be loaded{nor_here}: {error}") from error
    tokenizer = load_tokenizer(path, padding_side="right")
    if tokenizer.chat_template is None:
        raise ValueError(f"The tokenizer of {path} has no chat template: give a model whose tokenizer has one.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return (model.to(device()) if device_map is None else model).eval(), tokenizer


def device() -> torch.device:
    """Return the device that agents are loaded on."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def _with_adapter(path: str, options: dict[str, Any]) -> nn.Module:
    load = functools.partial(load_adapter, path, **options)
    model = load()
    if merging_changes_the_head(model):
        return model
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError):
        # Load the adapter again, because some of its layers may be merged already.
        return load()


def why_not(source: Agent, target: Agent, rows: list[dict[str, Any]]) -> str | None:
    """
    Return why perturbations of `source` cannot be used on `target`. Return None if they can: both tokenizers give the
    same tokens, and both models have embeddings of the same width.
    """
    widths = [embedding_shape(agent.model)[1] for agent in (source, target)]
    if widths[0] != widths[1]:
        return (
            f"its embeddings have width {widths[0]}, and the embeddings of the attacked model have width {widths[1]}"
        )
    inputs = [encode_examples(agent.tokenizer, rows, candidates=False) for agent in (source, target)]
    if not all(torch.equal(inputs[0][name], inputs[1][name]) for name in ("input_ids", "labels")):
        return "its tokenizer and the tokenizer of the attacked model give different tokens for the prompts"
    return None
