"""The worker processes of `benchmark.py`: each trains in one way, in blocks of steps, and measures the blocks."""

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

# A generator that yields the length of the next block of steps, and measures the block when it is resumed.
Script = Generator[int, None, None]


class Blocks(TrainerCallback):
    """
    Callback that lets a generator control training. The generator yields the number of the next steps, and is resumed
    when they are done. The time between the ends of two steps includes everything: data, step, optimizer and logging.
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
    layers, hidden, intermediate, heads, key_value_heads = case.model
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads or heads,
        max_position_embeddings=case.length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    with torch.device(case.device):
        return LlamaForCausalLM(config)


def make_dataset(case: Case) -> datasets.Dataset:
    """
    Return random tokens without padding: a prefix that all rows share, the perturbed prompt, and the action.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, case.vocabulary, (64 * case.batch, case.length), generator=generator)
    ids[:, : case.prefix] = ids[0, : case.prefix]
    labels = ids.clone()
    labels[:, : -case.action_tokens] = -100
    observed = torch.zeros_like(ids)
    observed[:, case.prefix : -case.action_tokens] = 1
    columns = {"input_ids": ids, "labels": labels, "observation_mask": observed}
    return datasets.Dataset.from_dict({name: column.tolist() for name, column in columns.items()})


class SignLoop(SFTTrainer):
    """
    The adversary's loop of C-AdvTrain (arXiv 2405.15589) on TRL's trainer: ten sign steps on the embeddings, each with
    a pass of the whole model and its backward pass, then the loss at the perturbed embeddings.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clean = model.get_input_embeddings()(inputs["input_ids"])
        rest = {"attention_mask": inputs["attention_mask"], "labels": inputs["labels"], "use_cache": False}
        delta = torch.zeros_like(clean)
        for _ in range(10):
            delta = delta.detach().requires_grad_(True)
            model(inputs_embeds=clean.detach() + delta, **rest).loss.backward()
            delta = delta.detach() + 1e-3 * delta.grad.sign()
            model.zero_grad()
        return model(inputs_embeds=clean + delta, **rest).loss


def make_trainer(case: Case, variant: Variant, folder: str, model, script: Script) -> SFTTrainer:
    """Return the variant's trainer. It trains in the blocks that the script yields, until the script ends."""
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
        trainer_class, config = (SignLoop if variant.sign_loop else SFTTrainer), SFTConfig(**arguments)
    else:
        trainer_class = AAJRTrainer
        # No warm-up: it takes a tenth of max_steps, and epsilon and lambda would stay near zero in the measured steps.
        arguments |= {"aajr_warmup_ratio": 0.0, "ascent_steps": case.ascent_steps}
        if case.prefix:
            arguments["perturbed_tokens"] = "observation"
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
    """Send the seconds per step of each block that the connection asks for, until it asks for 0 steps."""
    yield 1  # this step makes the optimizer's state and loads the kernels
    release_memory(case)
    connection.send("ready")
    while steps := connection.recv():
        if case.accelerated:
            # The allocator's cache was released so that all processes fit on the device. Fill it again before the
            # measurement.
            yield variant.interval
        synchronize(case)
        started = time.perf_counter()
        yield steps
        synchronize(case)
        seconds = (time.perf_counter() - started) / steps
        release_memory(case)
        connection.send(seconds)


def measured_steps(connection: Connection, case: Case, variant: Variant, model: LlamaForCausalLM) -> Script:
    """
    Send operations and peak memory of a step. Any window of `interval` steps has exactly one step with the penalty.
    """
    if variant.fields and variant.fields.get("jacobian_estimator") == "finite_difference":
        yield variant.interval  # finite differences find their step once
    # Count operations first: this also makes the optimizer's state, which must not count as peak memory of the step.
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
    Return the share of the host's time that the metrics of the inner ascent take (its logits from point to point, and
    the stability report); None without an ascent. The profiler that measures the share also slows these metrics down.
    """
    if not variant.ascends:
        return None
    profile = cProfile.Profile()
    started = time.perf_counter()
    profile.enable()
    yield 2 * variant.interval  # ten took longer than all else of the benchmark
    profile.disable()
    seconds = time.perf_counter() - started
    # Each value: calls without recursion, calls, time in the function, time including the functions that it calls.
    spent = {
        name: cumulative
        for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items()
        if file == monitoring.__file__
    }
    return sum(spent[name] for name in ("propose", "accept", "ascent_metrics")) / seconds


def _uncounted_operations() -> dict:
    """Return formulas that PyTorch's table lacks: attention on CPUs, and the in-place product of TRL's LM head."""
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
    The peak memory between construction and `stop`. Construct it between two steps, when the weights and the
    optimizer's state exist and gradients do not. It measures device memory as PyTorch's allocator counts it, or on a
    CPU the process's resident set (only on Linux: elsewhere it reports None).
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
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the current resident set
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
        """
        Return in MiB the peak above the loaded model, the peak above weights, gradients and optimizer state, and the
        start.
        """
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
    """
    Make glibc return freed memory at once (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of 64 KiB), so that peaks are exact.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter in (-3, -1):
            libc.mallopt(parameter, 65536)


# What a process runs


def run(connection: Connection, case: Case, variant: Variant, measure: str) -> None:
    """Train one variant on one case, and measure its `time` or its `memory`; errors also go to the connection."""
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
        pass  # the parent process is gone
    except Exception as error:
        connection.send(RuntimeError(f"{case.name}, {variant.name}:\n{traceback.format_exc()}{error}"))
