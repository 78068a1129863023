"""
Short training runs that `test_distributed.py` starts on several processes and on one, and compares.

    accelerate launch --config_file accelerate_configs/ddp_cpu.yaml --module tests.support.distributed_worker OUTPUT [resume:]CASE ...
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback

import aajr_hf.training.sharing.hub
from aajr_hf.cli.launching.worker import shard_on_cpu
from aajr_hf.environments import expert_rows

from .completions import dpo, grpo
from .tiny import WORDS, dataset, tiny_model, trainer

STEPS = 3
CASES = {
    f"{adapter}-{'checkpointed' if checkpointing else 'plain'}": {
        "adapter": adapter,
        "gradient_checkpointing": checkpointing,
    }
    for adapter in ("full", "lora")
    for checkpointing in (False, True)
}
# Plain steps: Adam's make large ones of the rounding in gradients that should be zero.
CASES["finite-difference"] = {"jacobian_estimator": "finite_difference", "optim": "sgd"}
CASES["global"] = {"regularizer": "global_spectral"}
CASES["amortised"] = {"penalty_trajectory": "sample", "penalty_fraction": 0.5, "penalty_interval": 2}
# What is steered by means over all processes: the radius by their success, lambda by their amplification.
CASES["controlled"] = {"epsilon_schedule": "curriculum", "aajr_warmup_ratio": 0.5, "curriculum_threshold": 1e-9}
CASES["controlled"] |= {"amplification_budget": 3.0, "regularizer_lambda": 0.0}
CASES["controlled"] |= {"adversarial_loss_weight": 0.0, "clean_loss_weight": 1.0}

# The methods of docs/methods.md, together where they can be. A step that is far too long is taken back.
CASES["methods"] = {"long_tail_alpha": 0.5, "sensitivity_floor": 6.0, "regularizer_lambda": 1e-3}
CASES["methods"] |= {
    "rollback_tolerance": 0.0,
    "rollback_interval": 1,
    "overfitting_interval": 1,
    "learning_rate": 30.0,
}
CASES["distilled-layer"] = {"system_loss": "distillation", "teacher_entropy_floor": 0.5, "perturbed_layer": 1}
# Its unit is a mean over all processes.
CASES["distilled-layer"] |= {"lambda_mode": "relative", "regularizer_lambda": 0.1}
_MATCHED = {"regularizer": "matched", "regularizer_lambda": 1e-3, "nuisance_rank": 8, "aajr_warmup_ratio": 0.0}
CASES["matched-ascent"] = _MATCHED | {"ascent_start": "random"}
CASES["matched-variants"] = _MATCHED | {"nuisance": "variants"}

# Of other trainers, on their own data.
OTHERS = {"dpo": dpo, "grpo": partial(grpo, max_completion_length=3)}


class GradientsAgree(TrainerCallback):
    """Compares what every process is about to step along, parameter by parameter, where all hold all parameters."""

    def __init__(self):
        self.largest_difference = None  # nothing compared

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if PartialState().num_processes == 1 or not gradients or hasattr(gradients[0], "full_tensor"):
            return
        flat = torch.cat([g.flatten() for g in gradients])
        rows = [torch.empty_like(flat) for _ in range(PartialState().num_processes)]
        torch.distributed.all_gather(rows, flat)
        difference = max(float((row - rows[0]).norm() / rows[0].norm()) for row in rows)
        self.largest_difference = max(self.largest_difference or 0.0, difference)


def arguments(**overrides) -> dict:
    # Not DeepSpeed's own clipping of 1; and an epsilon that keeps Adam from making steps of gradients' rounding.
    shared = {
        "adam_epsilon": 1e-4,
        "per_device_train_batch_size": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
    }
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        shared |= {"ddp_backend": "gloo", "use_cpu": False}
    return shared | {"max_steps": STEPS, "adapter_rank": 4} | overrides


def report(run, callback: GradientsAgree) -> dict:
    """The logs, the final weights (on the first process) and how far gradients differed."""
    weights = run.accelerator.get_state_dict(run.model_wrapped)
    return {
        "logs": [log for log in run.state.log_history if "aajr/clean_loss" in log],
        "weights": {key: value.detach().cpu().clone() for key, value in (weights or {}).items()},
        "gradient_difference": callback.largest_difference,
        "nuisance": getattr(run, "_nuisance", None),
        "estimator": run.estimator,
        "distributed_type": run.accelerator.distributed_type.value,
        "sharded": any(hasattr(p, "full_tensor") for p in run.model_wrapped.parameters()),
    }


def train(folder: Path, name: str, **overrides) -> dict:
    """One case from beginning to end."""
    settings = arguments(**CASES.get(name, {}) | overrides)
    if settings.get("system_loss") == "distillation":
        settings["teacher"] = teacher(folder / "teacher")
    rows = dataset(16)
    if settings.get("nuisance") == "variants":
        rows = Dataset.from_list(expert_rows("congestion", 16, seed=0, agents=3, variants=2))
    make = OTHERS.get(name, partial(trainer, data=rows))
    run = make(folder / name, tiny_model(torch.float32), **settings)
    callback = GradientsAgree()
    run.add_callback(callback)
    run.train()
    return report(run, callback)


def teacher(folder: Path) -> str:
    """The folder of another model, which the first process writes."""
    with PartialState().main_process_first():
        if not folder.is_dir():
            tiny_model(torch.float32, seed=1).save_pretrained(folder)
            WORDS.save_pretrained(folder)
    return str(folder)


def save_resume_push(folder: Path, name: str) -> dict:
    """The case again, in two parts: saved after the first step, resumed in a new trainer, pushed; who called the Hub."""
    calls = []
    hub = SimpleNamespace(**{name: partial(_hub_call, calls, name) for name in ("create_repo", "upload_folder")})
    transformers.trainer.hf_api = lambda: hub
    aajr_hf.training.sharing.hub.HfApi = lambda **_: hub
    settings = arguments(**CASES[name], save_strategy="steps", save_steps=1, push_to_hub=True, hub_token="none")
    settings |= {"hub_model_id": "someone/agent", "hub_strategy": "end", "save_total_limit": STEPS}
    first = trainer(folder / "resumed", tiny_model(torch.float32), data=dataset(16), **settings)
    first.add_callback(StopAfter(1))
    first.train()
    run = trainer(folder / "resumed", tiny_model(torch.float32), data=dataset(16), **settings)
    callback = GradientsAgree()
    run.add_callback(callback)
    run.train(resume_from_checkpoint=True)
    run.save_model()
    run.push_to_hub()
    return report(run, callback) | {"hub_calls": calls}


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def _hub_call(calls: list[str], function: str, *args, **kwargs):
    calls.append(function)
    return SimpleNamespace(repo_id="someone/agent", result=lambda: None, done=lambda: True)


def without_compiling() -> None:
    """DeepSpeed's own collectives on a CPU take a minute to compile; without them, it takes those of gloo."""
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False


def main() -> None:
    shard_on_cpu()
    without_compiling()
    output = Path(sys.argv[1])
    for name in sys.argv[2:]:
        task, _, case = name.rpartition(":")
        result = save_resume_push(output / case, case) if task == "resume" else train(output, case)
        state = PartialState()
        torch.save(result, output / f"{name}-{state.process_index}.pt")
        state.wait_for_everyone()
    # Not by way of the interpreter's exit, at which DeepSpeed's ZeRO-3 aborts on a CPU now and then, its work done.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
