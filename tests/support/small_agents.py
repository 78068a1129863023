"""Tiny agents: one that knows a few answers by heart, and one that has learned to copy a number."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.attacks.settings import RobustnessSettings
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.models.base_agent import small_llama, train_tokenizer

SMALL = RobustnessSettings(attack_steps=4, attack_restarts=2, batch_size=4, power_iterations=3)
# With a spectral norm that is one.
PRECISE = replace(SMALL, power_iterations=60)


def tokenizer_of(rows: list[dict]) -> PreTrainedTokenizerBase:
    texts = [m["content"] for row in rows for m in row["prompt"]]
    return train_tokenizer(texts + [action for row in rows for action in row["actions"]])


def copying_row(number: int, other: int) -> dict:
    """`need 3 owe 1` must be answered `take 3`; each unit too many costs 10, each too few 1."""
    return {
        "prompt": [{"role": "user", "content": f"need {number} owe {other}"}],
        "completion": [{"role": "assistant", "content": f"take {number}"}],
        "actions": [f"take {take}" for take in range(5)],
        "action_costs": [float(max(10 * (take - number), number - take)) for take in range(5)],
    }


ROWS = expert_rows("congestion", 6, seed=0, agents=3)
TOKENIZER = tokenizer_of(ROWS)
COPYING_ROWS = [copying_row(number, other) for number in range(4) for other in range(4)]
COPYING_TOKENIZER = tokenizer_of(COPYING_ROWS)


def model(tokenizer: PreTrainedTokenizerBase = TOKENIZER, seed: int = 0, width: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.2, **sizes)
    return LlamaForCausalLM(config).eval()


def trained() -> LlamaForCausalLM:
    """A model that knows some of the rows by heart."""
    return fit(model(), TOKENIZER, ROWS[:3])


@functools.cache
def copying() -> LlamaForCausalLM:
    """A model that answers all of `COPYING_ROWS`."""
    return fit(model(COPYING_TOKENIZER), COPYING_TOKENIZER, COPYING_ROWS)


def fit(agent: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> LlamaForCausalLM:
    inputs = encode_examples(tokenizer, rows, candidates=False)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        agent(**inputs).loss.backward()
        optimizer.step()
    return agent


def untrained(folder, world, *, width=128, says=True):
    """The folder of an agent with random weights and a tokenizer of a world; its configuration may say which."""
    rows = expert_rows(world, 100, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    model = small_llama(tokenizer, seed=0)
    if width != model.config.hidden_size:
        model.config.hidden_size, model.config.head_dim = width, width // model.config.num_attention_heads
        model = type(model)(model.config)
    if says:
        model.config.aajr_environment = world
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
