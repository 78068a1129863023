"""Arguments for model and data, shared by `aajr train` and similar commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ModelConfig

from ..._compat.transformers import CHECKPOINTING
from ...training.data.sources import DataArguments

COMMON_FIELDS = (
    "model_name_or_path",
    "model_revision",
    "dtype",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "use_rslora",
    "use_dora",
    "load_in_4bit",
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_length",
    CHECKPOINTING,
    "bf16",
    "seed",
    "logging_steps",
    "save_steps",
    "resume_from_checkpoint",
    "push_to_hub",
    "hub_model_id",
)


@dataclass
class TrainArguments(DataArguments, ModelConfig):
    """Model ([`~trl.ModelConfig`] of TRL) and data. All other settings of training are in [`AAJRConfig`]."""

    _argument_group_name = "model and data"

    trainer: str = field(
        default="sft",
        metadata={
            "help": "Trainer: sft (examples), dpo (preferences: rows with `chosen` and `rejected`) or grpo (the agent's own answers in "
            "`environment`, whose reward is minus their cost). Each has the fields of TRL's trainer: see --trainer dpo --help."
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention implementation. Default: sdpa, or eager for models without sdpa. With these two, Jacobian products "
            "are exact; with others they are estimated."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace the model, the checkpoints and the evaluation in `output_dir`."},
    )
