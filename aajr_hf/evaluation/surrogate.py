"""
A smooth relative of an agent: what is found on it is tried on the agent, and ascents start from there. Adversarial training can hide an
agent's gradients; a penalty on its Jacobian brings them back. (A substitute model as in Papernot et al., arXiv 1602.02697, but from the
agent's own weights.)
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..training.config import AAJRConfig
from ..training.trainer import AAJRTrainer
from .threat_model import ThreatModel

EXAMPLES, STEPS, BATCH_SIZE = 2000, 60, 32
LEARNING_RATE, LAMBDA = 1e-3, 6e-4


def make_surrogate(
    agent: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    rows: list[dict[str, Any]],
    threat: ThreatModel,
    folder: Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A copy of an agent, fine-tuned for [`STEPS`] steps on rows with `prompt` and `completion` against the threat model's adversary, with a
    strong penalty; saved in the folder, to be loaded as any agent.
    """
    model, tokenizer = copy.deepcopy(agent[0]).requires_grad_(True), agent[1]
    on_cpu = model.device.type == "cpu"
    config = AAJRConfig(
        str(folder),
        **asdict(threat),
        ascent_steps=1,
        clean_loss_weight=1.0,
        regularizer_lambda=LAMBDA,
        freeze_embeddings=True,  # its perturbations are of the agent's own embeddings
        max_steps=STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=STEPS,
    )
    with torch.random.fork_rng():
        trainer = AAJRTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
        trainer.save_final()
    return trainer.model.eval(), tokenizer
