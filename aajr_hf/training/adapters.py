"""What is trained: every parameter, or an adapter of a chosen rank."""

from __future__ import annotations

from peft import LoraConfig, PeftConfig, RandLoraConfig, TaskType

from .config import AAJRConfig


def peft_config(config: AAJRConfig) -> PeftConfig | None:
    """
    The PEFT configuration of `config.adapter` at `config.adapter_rank` on all linear layers but the LM head; None for
    full fine-tuning. The scale of a LoRA update is 2 at every rank, so that a rank can be swapped alone.
    """
    common = {"r": config.adapter_rank, "target_modules": "all-linear", "task_type": TaskType.CAUSAL_LM}
    if config.adapter == "lora":
        return LoraConfig(lora_alpha=2 * config.adapter_rank, **common)
    if config.adapter == "randlora":
        return RandLoraConfig(**common)
    return None
