"""Runs a step again in which a value was not finite, from the files that [`FiniteMixin`] has saved."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ..config.sft import AAJRConfig
from ..config.without_effects import WITHOUT_EFFECTS
from ..models.adapters import load_adapter
from ..models.loading import load_tokenizer
from ..runs.nonfinite import CUDA_RNG, NUM_ITEMS, RNG, read_dump
from .sft import AAJRTrainer

# Settings of a run that one step on one process, with data that is prepared already, must not have.
_NOT_AGAIN = (
    *("output_dir", "resume_from_checkpoint", "fsdp", "fsdp_config", "deepspeed"),
    *("assistant_only_loss", "completion_only_loss", "packing", "padding_free"),
)
_NOT_DATA = (RNG, CUDA_RNG, NUM_ITEMS)


@dataclass(frozen=True)
class Replay:
    """
    Attributes:
        recorded: The values that were not finite in the original run.
        process, processes: Index of the process whose micro-batches were run, and the number of processes.
        statistics: The new measurements in the first micro-batch that was not finite, or else in the last.
        loss: The loss of each micro-batch.
        modules: Modules whose output is not finite although their inputs are, in the order of the forward passes.
        parameters: Parameters with a gradient that is not finite.
        trained: Number of parameters that have a gradient.
    """

    recorded: str
    process: int
    processes: int
    statistics: dict[str, float]
    loss: list[float]
    modules: list[str]
    parameters: list[str]
    trained: int

    @property
    def reproduced(self) -> bool:
        return bool(self.parameters) or not all(math.isfinite(value) for value in self.loss)


def replay(folder: Path) -> Replay:
    """
    Run the micro-batches of one process again, with the same weights and random numbers: of the first process whose
    statistics were not finite.

    Args:
        folder: `_nonfinite-<step>` in a run's `output_dir`.

    Raises:
        OSError, ValueError: if the folder does not hold a saved step.
    """
    record, processes = read_dump(folder)
    process = _culprit(record["processes"])
    batches = processes[process]
    with tempfile.TemporaryDirectory() as output:
        trainer = _trainer(folder, record["settings"], batches[0], output)
        trainer.state.global_step, trainer.state.max_steps = record["step"], record["max_steps"]
        trainer.draw_offset = process
        trainer.memory.numbers.update(record["memory"])
        trainer.current_gradient_accumulation_steps = len(batches)
        trainer.model.train()
        modules: list[str] = []
        handles = [
            m.register_forward_hook(_watch(name, modules), with_kwargs=True)
            for name, m in trainer.model.named_modules()
        ]
        loss = []
        for batch in batches:
            torch.set_rng_state(batch[RNG])
            if CUDA_RNG in batch and torch.cuda.is_available():
                torch.cuda.set_rng_state(batch[CUDA_RNG])
            count = batch[NUM_ITEMS][0].to(trainer.args.device) if NUM_ITEMS in batch else None
            data = {name: value for name, value in batch.items() if name not in _NOT_DATA}
            loss.append(float(trainer.training_step(trainer.model, data, count)))
        trainer.settle_metrics()
        for handle in handles:
            handle.remove()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return Replay(
        recorded=record["what"],
        process=process,
        processes=len(processes),
        statistics=trainer.statistics[0] if trainer.statistics else {},
        loss=loss,
        modules=modules,
        parameters=[name for name, gradient in gradients.items() if not gradient.isfinite().all()],
        trained=len(gradients),
    )


def _culprit(processes: list[dict[str, str]]) -> int:
    bad = [i for i, values in enumerate(processes) if not all(math.isfinite(float(v)) for v in values.values())]
    return bad[0] if bad else 0


def _trainer(folder: Path, settings: dict, batch: dict[str, Tensor], output: str) -> AAJRTrainer:
    known = {field.name for field in dataclasses.fields(AAJRConfig)} - set(_NOT_AGAIN)
    settings = {name: value for name, value in settings.items() if name in known}
    config = AAJRConfig(output, **settings | WITHOUT_EFFECTS | {"on_nonfinite": "skip"})
    options = {"dtype": "auto"} | (config.model_init_kwargs or {})
    if (folder / "adapter_config.json").is_file():
        model = load_adapter(str(folder), is_trainable=True, **options)
    else:
        # Load the weights in the folder, in their own type, and not those that the run began with.
        options |= {"use_safetensors": True, "dtype": "auto", "revision": "main"}
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    rows = {name: batch[name].tolist() for name in ("input_ids", "labels", "observation_mask") if name in batch}
    tokenizer = load_tokenizer(str(folder))
    # The dataset is never read, but a trainer cannot be made without rows.
    trainer = AAJRTrainer(model, config, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer)
    trainer._replayable = False  # otherwise the step would be saved a second time
    return trainer


def _watch(name: str, found: list[str]):
    def hook(module: nn.Module, args, kwargs, output) -> None:
        given = [
            value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point()
        ]
        made = output[0] if isinstance(output, tuple) else output
        if not isinstance(made, Tensor) or made.isfinite().all() or not all(_usable(v) for v in given):
            return
        # A module's hook is called after the hooks of the modules inside it.
        if not any(inner == name or inner.startswith(f"{name}.") or not name for inner in found):
            found.append(name)

    return hook


def _usable(value: Tensor) -> bool:
    # An additive attention mask is -inf at masked positions.
    return bool((value.isfinite() | value.isneginf()).all())
