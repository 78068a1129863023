"""The temperature at which an agent is as sure of its answers as it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...training.policy.policy import AgentPolicy
from ..attacks.target import success
from ..batches import batches_by_length, read_batch
from ..files import replace_file

# Between them lies the temperature. An agent that is right everywhere has no best one: the colder, the better.
COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Calibration:
    """
    Attributes:
        temperature: The temperature in [`COLDEST`, `HOTTEST`] with the lowest loss.
        nll: Mean negative log-likelihood per token of the answer, in nats, at temperature 1 and at this temperature.
        sampled: Mean probability of the right answers in percent, at temperature 1 and at this temperature.
    """

    temperature: float
    nll: tuple[float, float]
    sampled: tuple[float, float]

    @property
    def at_bound(self) -> bool:
        """Whether there is no best temperature: the loss is gone, or still falls at the end of the interval."""
        return self.nll[1] < 1e-9 or not 1.01 * COLDEST < self.temperature < 0.99 * HOTTEST


@torch.no_grad()
def calibrate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], batch_size: int = 128
) -> Calibration:
    """
    Find the temperature that minimises the mean negative log-likelihood of the answers' tokens (temperature scaling, Guo et
    al., arXiv 1706.04599). As a function of its reciprocal, the loss is convex.

    Args:
        rows: Held-out rows, each with its right answer.
    """
    logits, batches = [], []
    for numbers in batches_by_length(tokenizer, rows, batch_size):
        batches.append(read_batch(tokenizer, [rows[number] for number in numbers], "prompt", model.device))
        logits.append(AgentPolicy(model.eval(), batches[-1])())
    tokens = torch.cat([one[batch.action_mask] for one, batch in zip(logits, batches, strict=True)])
    labels = torch.cat([batch.action_labels[batch.action_mask] for batch in batches])
    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(lambda x: nll(tokens, labels, math.exp(x)), bounds=bounds, method="bounded")
    best = math.exp(found.x)
    sampled = [
        100 * float(torch.cat([success(z, b, at)[1] for z, b in zip(logits, batches, strict=True)]).mean())
        for at in (1.0, best)
    ]
    return Calibration(best, (nll(tokens, labels, 1.0), nll(tokens, labels, best)), (sampled[0], sampled[1]))


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Return the mean negative log-likelihood of labels (n,) under logits (n, V), in nats."""
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


def own_temperature(model: PreTrainedModel) -> float:
    """Return the temperature at which the model's `generation_config` samples; 1 if it says nothing."""
    config = model.generation_config
    return 1.0 if config is None or not config.temperature else float(config.temperature)


def save_temperature(folder: Path, config: GenerationConfig | None, temperature: float) -> None:
    """Write a temperature into the folder's `generation_config.json`, so that `generate` samples from all words at it."""
    known = {} if config is None else config.to_dict()
    # Without what says that it was derived from the model's configuration, from which it would be derived again.
    kept = {name: value for name, value in known.items() if not name.startswith("_")}
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    text = GenerationConfig.from_dict(kept | sampling).to_json_string()
    replace_file(folder / "generation_config.json", text.encode())
