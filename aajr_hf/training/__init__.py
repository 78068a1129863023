"""Configurations and trainers: where Transformers, TRL and PEFT meet the objective."""

from importlib import import_module

from .config.sft import AAJRConfig
from .trainers.sft import AAJRTrainer

# Loaded when they are asked for: few users need them, and with its GRPO TRL loads vLLM where that is installed.
_LAZY = {
    "AAJRDPOConfig": "config.dpo",
    "AAJRDPOTrainer": "trainers.dpo",
    "AAJRGRPOConfig": "config.grpo",
    "AAJRGRPOTrainer": "trainers.grpo",
}

__all__ = ["AAJRConfig", "AAJRTrainer", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
