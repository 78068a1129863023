"""Configurations and trainers: where Transformers, TRL and PEFT meet the objective."""

from importlib import import_module

# Loaded when they are asked for, because it takes seconds: what stands beside them may need none of them.
_LAZY = {
    "AAJRConfig": "config.sft",
    "AAJRTrainer": "trainers.sft",
    "AAJRDPOConfig": "config.dpo",
    "AAJRDPOTrainer": "trainers.dpo",
    "AAJRGRPOConfig": "config.grpo",
    "AAJRGRPOTrainer": "trainers.grpo",
}

__all__ = [*_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
