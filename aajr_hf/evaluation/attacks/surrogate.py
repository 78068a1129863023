"""
Surrogates: smoother copies of agents. Perturbations found on a surrogate are tried on its agent and used as starts of
ascents. Adversarial training can hide the gradients of an agent; a penalty on its Jacobian makes them visible again. A
surrogate is a substitute model as in Papernot et al. (arXiv 1602.02697), but starts from the agent's own weights.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.utils import logging

from ...training.config.recipe import recipe_of
from ...training.config.sft import AAJRConfig
from ...training.trainers.sft import AAJRTrainer
from .threat_model import ThreatModel

STEPS, BATCH_SIZE = 60, 32
LEARNING_RATE, LAMBDA = 1e-3, 6e-4


def make_surrogate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    threat: ThreatModel,
    folder: Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Fine-tune a copy of an agent for [`STEPS`] steps on rows with `prompt` and `completion`, against the adversary of
    the threat model and with a strong penalty. Save it in the folder, from which it can be loaded like any agent. If
    the model has an unmerged adapter, only the adapter is trained.

    The folder appears, or replaces an older one, only when it is complete.

    Raises:
        ValueError, OSError: if training on the agent or the rows is not possible, or the folder is not writable.
        FloatingPointError: if training diverges.
    """
    model = copy.deepcopy(model)
    _make_trainable(model)
    with _quietly(), torch.random.fork_rng(), _new_folder(folder) as unfinished:
        config = _config(unfinished, threat, on_cpu=model.device.type == "cpu")
        trainer = AAJRTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.describe_run(recipe_of(config) | {"output_dir": str(folder)})
        trainer.train()
        trainer.save_final()
    return trainer.model.eval(), tokenizer


def _make_trainable(model: PreTrainedModel) -> None:
    if not isinstance(model, PeftModel):
        model.requires_grad_(True)
        return
    # The saved folder holds only the adapter, so changes of other weights would be lost.
    model.requires_grad_(False)
    model.set_adapter(model.active_adapter)


def _config(folder: Path, threat: ThreatModel, on_cpu: bool) -> AAJRConfig:
    config = AAJRConfig(
        str(folder),
        **asdict(threat),
        ascent_steps=1,
        clean_loss_weight=1.0,
        regularizer_lambda=LAMBDA,
        freeze_embeddings=True,  # so that its perturbations fit the embeddings of the agent
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
    if config.n_gpu > 1:  # train on one GPU only, the one of the agent
        config._n_gpu = 1
    return config


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that replaces it at the end; after an error, it is removed."""
    new = [path for path in folder.parents if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as temporary:
            # Use the same name, because the model card has it as its title.
            unfinished = Path(temporary) / folder.name
            yield unfinished
            if folder.exists():
                os.replace(folder, Path(temporary) / ".old")
            os.replace(unfinished, folder)
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        raise


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence progress bars, logs and warnings of the libraries, because nobody follows this training."""
    verbosity, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()
