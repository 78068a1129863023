"""Configurations and trainers, which connect Transformers, TRL and PEFT with the objective."""

from importlib import import_module

# Imported on first use: the import takes seconds, and the other modules of this folder may not need it.
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
