"""The attack `token`: an adversary without gradients that replaces a number in the observation."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...training.data.batch import AgentBatch
from ...training.data.collation import encode_examples
from .target import Target

# The text of a token may begin with the character that the tokenizer uses for a space.
_NUMBER = re.compile("([Ġ▁ ]?)[0-9]+")

# A position of the prompt, and the new token at this position.
Substitution = tuple[int, int]


def number_substitutions(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> list[list[Substitution]]:
    """
    Return for each row all ways to replace one number of its observation by another number that occurs in the
    observation of some row. A number is a token of digits only. A number with a leading space is replaced by another
    number with a leading space, so that the text stays well formed.

    Raises:
        ValueError: if no row has a number that another one could replace, or the observations cannot be located in
            the output of the chat template.
    """
    inputs = encode_examples(tokenizer, rows, candidates=True, perturbed_tokens="observation")
    observed = AgentBatch.from_inputs(inputs, "observation").perturbable
    texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = {token: match[1] for token, text in enumerate(texts) if (match := _NUMBER.fullmatch(text or ""))}
    numbers = [
        [(position, token) for position, token in enumerate(ids) if seen[position] and token in kinds]
        for ids, seen in zip(inputs["input_ids"].tolist(), observed.tolist(), strict=True)
    ]
    pool = sorted({token for row in numbers for _, token in row})
    found = [
        [(position, new) for position, old in row for new in pool if new != old and kinds[new] == kinds[old]]
        for row in numbers
    ]
    if not any(found):
        raise ValueError(
            "The attack `token` finds no numbers to replace: the tokenizer has no tokens of digits only, or the "
            "observations contain fewer than two different ones; leave this attack out."
        )
    return found


def sample_substitutions(substitutions: list[Substitution], trials: int, seed: int) -> list[Substitution]:
    """Draw up to `trials` different substitutions at random; all of them if there are no more."""
    return random.Random(seed).sample(substitutions, min(trials, len(substitutions)))


@torch.no_grad()
def worst_substitution(target: Target, trials: list[list[Substitution]]) -> Target:
    """
    Return the batch after the attack: each example has the one substitution, or none, with the highest expected system
    cost of the original candidates.

    Args:
        trials: The substitutions to try, one list per example.
    """
    original = target.batch.input_ids
    best_ids, best_cost = original.clone(), target.cost(target.origin)
    for trial in zip_longest(*trials):
        ids = original.clone()
        for row, substitution in enumerate(trial):
            if substitution is not None:
                position, token = substitution
                ids[row, position] = token
        rewritten = _rewritten(target, ids)
        cost = rewritten.cost(rewritten.origin)
        best_ids = torch.where((cost > best_cost)[:, None], ids, best_ids)
        best_cost = torch.maximum(cost, best_cost)
    return _rewritten(target, best_ids)


def _rewritten(target: Target, input_ids: Tensor) -> Target:
    return Target(target.model, replace(target.batch, input_ids=input_ids), temperature=target.temperature)


def substitution_radius(target: Target, rewritten: Target) -> Tensor:
    """Return the l2 distance between the rewritten and the original embeddings, (B,), in the embeddings' units."""
    return (rewritten.state - target.state).flatten(1).norm(dim=1)
