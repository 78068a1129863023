"""The processes that `benchmark.py` starts: each trains in one way, in blocks of steps, and measures them."""

from __future__ import annotations

import cProfile
import ctypes
import gc
import logging
import pstats
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Generator
from multiprocessing.connection import Connection
from pathlib import Path

import datasets
import torch
from benchmark_cases import Case, Variant
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.training.policy import monitoring

# A block of steps of some length each time the generator is asked; it measures where it is resumed.
Script = Generator[int, None, None]


class Blocks(TrainerCallback):
    """
    Lets a generator run training: it yields how many steps come next, and is resumed when they are done. Between two
    ends of steps lies all that users pay for: the data, the step, the optimizer and what is logged.
    """

    def __init__(self, script: Script):
        self.script = script
        self.left = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.left = next(self.script)

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.left = next(self.script, 0)
            control.should_training_stop = self.left == 0
        return control


# What is trained


def make_model(case: Case) -> LlamaForCausalLM:
    torch.manual_seed(0)
    layers, hidden, intermediate, heads = case.model
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=case.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.device(case.device):
        return LlamaForCausalLM(config)


def make_dataset(case: Case) -> datasets.Dataset:
    """Random tokens without padding; the last ones are the action, the others the prompt that is perturbed."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, case.vocabulary, (64 * case.batch, case.length), generator=generator)
    labels = ids.clone()
    labels[:, : -case.action_tokens] = -100
    return datasets.Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def make_trainer(case: Case, variant: Variant, folder: str, model, script: Script) -> SFTTrainer:
    """The variant's trainer, which trains in the blocks that the script asks for, until it ends."""
    arguments = {
        "output_dir": folder,
        "per_device_train_batch_size": case.batch,
        "max_steps": 10**6,
        "learning_rate": 1e-5,
        "max_length": None,
        "gradient_checkpointing": variant.checkpointing,
        "bf16": case.accelerated,
        "use_cpu": not case.accelerated,
        "dataloader_pin_memory": case.accelerated,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if variant.fields is None:
        trainer_class, config = SFTTrainer, SFTConfig(**arguments)
    else:
        trainer_class = AAJRTrainer
        # Without the warm-up: within a tenth of so many steps nothing would move.
        arguments |= {"aajr_warmup_ratio": 0.0, "ascent_steps": case.ascent_steps}
        config = AAJRConfig(**arguments | variant.fields)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "<eos>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    trainer = trainer_class(
        model, config, train_dataset=make_dataset(case), processing_class=tokenizer, callbacks=[Blocks(script)]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


# What is measured


def timed_blocks(connection: Connection, case: Case, variant: Variant) -> Script:
    """Seconds per step of each block asked for through the connection, until 0 steps are asked for."""
    yield 1  # makes the optimizer's state and loads the kernels
    release_memory(case)
    connection.send("ready")
    while steps := connection.recv():
        if case.accelerated:
            # The allocator's cache was given back, so that all processes fit on the device: filled again unmeasured.
            yield variant.interval
        synchronize(case)
        started = time.perf_counter()
        yield steps
        synchronize(case)
        seconds = (time.perf_counter() - started) / steps
        release_memory(case)
        connection.send(seconds)


def measured_steps(connection: Connection, case: Case, variant: Variant, model: LlamaForCausalLM) -> Script:
    """Operations and peak memory of a step. Any window of `interval` steps holds exactly one that is penalised."""
    if variant.fields and variant.fields.get("jacobian_estimator") == "finite_difference":
        yield variant.interval  # finds its step once
    # First, as it makes the optimizer's state, too, which peaks must not take for a part of the step.
    with FlopCounterMode(display=False, custom_mapping=_uncounted_operations()) as counter:
        yield variant.interval
    memory = PeakMemory(case)
    yield variant.interval
    memory.stop()
    share = yield from monitoring_share(variant)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    connection.send(
        {
            # AdamW keeps two tensors for each parameter.
            "memory": memory.report(optimizer_bytes=2 * gradients, gradient_bytes=gradients),
            "flops": counter.get_total_flops() / variant.interval,
            "parameters": sum(p.numel() for p in model.parameters()),
            "monitoring_share": share,
        }
    )


def monitoring_share(variant: Variant) -> Generator[int, None, float | None]:
    """
    Of the host's time, what goes into the metrics of the inner ascent (the following of its logits and the stability
    report), as a profiler sees it, which is itself a burden on them; None without an ascent.
    """
    if not variant.ascends:
        return None
    profile = cProfile.Profile()
    started = time.perf_counter()
    profile.enable()
    yield 10 * variant.interval
    profile.disable()
    seconds = time.perf_counter() - started
    # By function: calls without recursion, calls, time in it, time in it and what it calls.
    spent = {
        name: cumulative
        for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items()
        if file == monitoring.__file__
    }
    return sum(spent[name] for name in ("propose", "accept", "ascent_metrics")) / seconds


def _uncounted_operations() -> dict:
    """What PyTorch's table of formulas leaves out: attention on CPUs, and the product in place of TRL's LM head."""
    aten = torch.ops.aten

    def attention(query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(query, key, value)

    def attention_backward(gradient, query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, query, key, value)

    def product(accumulator, left, right, *args, out_shape=None, **kwargs):
        return 2 * left[0] * left[1] * right[1]

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        aten.addmm_: product,
    }


class PeakMemory:
    """
    The most memory in use between construction and `stop`. Constructed between two steps, where the weights and the
    optimizer's state are there and gradients are not. Device memory as PyTorch's allocator counts it, or the process's
    resident set on a CPU (Linux alone: elsewhere it reports None).
    """

    _STATUS = Path("/proc/self/status")

    def __init__(self, case: Case):
        self.case = case
        gc.collect()
        synchronize(case)
        if case.accelerated:
            torch.accelerator.reset_peak_memory_stats()
            self.start = torch.accelerator.memory_allocated()
        elif self._STATUS.exists():
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
            self.start = self._resident("VmRSS")
        else:
            self.start = None
        self.peak = None

    def stop(self) -> None:
        synchronize(self.case)
        if self.case.accelerated:
            self.peak = torch.accelerator.max_memory_allocated()
        elif self.start is not None:
            self.peak = self._resident("VmHWM")

    def report(self, optimizer_bytes: int, gradient_bytes: int) -> dict | None:
        """MiB: the peak above the loaded model, and above weights, gradients and optimizer state (the activations)."""
        if self.peak is None:
            return None
        step = self.peak - self.start
        values = {"above_model": step + optimizer_bytes, "activations": step - gradient_bytes, "between": self.start}
        return {f"{name}_mib": round(value / 2**20, 1) for name, value in values.items()}

    def _resident(self, field: str) -> int:
        line = next(line for line in self._STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024


def synchronize(case: Case) -> None:
    if case.accelerated:
        torch.accelerator.synchronize()


def release_memory(case: Case) -> None:
    if case.accelerated:
        torch.accelerator.empty_cache()


def return_freed_memory() -> None:
    """Have glibc give freed memory back at once, as M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of 64 KiB: peaks are exact."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter in (-3, -1):
            libc.mallopt(parameter, 65536)


# What a process runs


def run(connection: Connection, case: Case, variant: Variant, measure: str) -> None:
    """Train one variant on one case, for its `time` or its `memory`; errors go to the connection, too."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    try:
        if measure == "memory":
            return_freed_memory()
        model = make_model(case)
        if measure == "memory":
            script = measured_steps(connection, case, variant, model)
        else:
            script = timed_blocks(connection, case, variant)
        with tempfile.TemporaryDirectory() as folder:
            make_trainer(case, variant, folder, model, script).train()
    except EOFError:
        pass  # the process that asked is gone
    except Exception as error:
        connection.send(RuntimeError(f"{case.name}, {variant.name}:\n{traceback.format_exc()}{error}"))
