"""The teacher of a distillation: a causal language model with the tokenizer of the trained one."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from .adapters import load_adapter
from .embeddings import embedding_shape
from .loading import SAVE_AGAIN, check_model_name, check_weights, load_tokenizer
from .saved_adapters import adapter_folder


def load_teacher(
    name: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, moved: bool, device: torch.device
) -> PreTrainedModel:
    """
    Load a teacher from a folder or the Hub, a model or an adapter, frozen and without dropout.

    Args:
        name: Folder of the model, or its name on the Hub.
        student: The trained model.
        tokenizer: Its tokenizer.
        moved: Whether the teacher's embeddings are to be perturbed by the same vectors as the student's.
        device: Where the teacher computes.

    Raises:
        ValueError: if there is no such model, or it has other tokens or, where they are moved, embeddings of another width; names
            the field.
    """
    try:
        check_model_name(name)
        check_weights(name, SAVE_AGAIN)
        if (folder := adapter_folder(name)) is not None:
            teacher = load_adapter(folder)
        else:
            teacher = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
        tokens = load_tokenizer(name).get_vocab()
    except (OSError, ValueError) as error:
        raise ValueError(f"`teacher`: {error}") from error
    if tokens != tokenizer.get_vocab() or embedding_shape(teacher)[0] != embedding_shape(student)[0]:
        raise ValueError(
            f"`teacher`: {name} has other tokens than the trained model: give a teacher with its tokenizer."
        )
    if moved and embedding_shape(teacher)[1] != embedding_shape(student)[1]:
        raise ValueError(
            f"`teacher_view` perturbed moves the embeddings of the teacher, too, but those of {name} have another width: set it "
            "to clean."
        )
    return teacher.to(device, dtype=student.dtype).eval().requires_grad_(False)
