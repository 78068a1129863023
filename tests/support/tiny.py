"""Tiny agents, data and trainers for the tests of the training package."""

from __future__ import annotations

import copy

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.environments import expert_rows
from aajr_hf.training.models.base_agent import train_tokenizer

ROWS = expert_rows("congestion", 64, seed=0, agents=3)
# Prompts and answers of several lengths, so that padding and per-token means matter.
for i, row in enumerate(ROWS):
    row["prompt"][0]["content"] += " " + "now " * (i % 3)
    row["completion"][0]["content"] += " ok" * (i % 2)
    row["actions"] = [action + " ok" * (i % 2) for action in row["actions"]]
TEXTS = [m["content"] for row in ROWS for m in row["prompt"]] + [action for row in ROWS for action in row["actions"]]
TOKENIZER = train_tokenizer(TEXTS)


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """The same chat template over a few dozen words: full Jacobians of its logits are small."""
    words = sorted({word for text in TEXTS for word in text.split()})
    special = list(TOKENIZER.get_added_vocab())
    model = models.WordLevel({token: i for i, token in enumerate([*special, *words])}, unk_token=special[0])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1])
    fast.chat_template = TOKENIZER.chat_template
    return fast


WORDS = _word_tokenizer()


def tiny_model(dtype: torch.dtype = torch.float64, seed: int = 0, **overrides) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "pad_token_id": WORDS.pad_token_id,
        "eos_token_id": WORDS.eos_token_id,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | overrides)).to(dtype)


def dataset(examples: int = 16) -> Dataset:
    return Dataset.from_list(ROWS[:examples])


def trainer_arguments(folder, **overrides) -> dict:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
        **overrides,
    }


def trainer(folder, model=None, data=None, **overrides) -> AAJRTrainer:
    return AAJRTrainer(
        tiny_model() if model is None else model,
        AAJRConfig(**trainer_arguments(folder, **overrides)),
        train_dataset=dataset() if data is None else data,
        processing_class=copy.deepcopy(WORDS),
    )


def one_step(folder, model=None, data=None, **overrides) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """
    The gradient of one optimizer step, by parameter (steps of plain gradient descent at rate 1 reveal it), and the
    logged metrics.
    """
    model = tiny_model() if model is None else model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run = trainer(folder, model, data, **overrides)
    run.train()
    gradient = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}
    return gradient, run.state.log_history[0]


def assert_same_gradient(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    actual_flat = torch.cat([actual[name].flatten() for name in expected])
    expected_flat = torch.cat([value.flatten() for value in expected.values()])
    assert expected_flat.norm() > 0
    error = (actual_flat - expected_flat).norm() / expected_flat.norm()
    assert error < tolerance, f"relative difference {error:.2e}"
