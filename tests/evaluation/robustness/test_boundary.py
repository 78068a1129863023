"""What `Search.to_boundary` does with perturbations of no length, and with hardly any."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from tests.support.small_agents import ROWS, TOKENIZER, model

WIDE = [
    ThreatModel(),
    ThreatModel(epsilon=0.25, perturbation_norm="linf"),
    ThreatModel(epsilon=1e6),
    ThreatModel(epsilon=1e3, perturbation_scope="token"),
    ThreatModel(epsilon=1e3, epsilon_mode="absolute", perturbation_norm="linf"),
]


@pytest.mark.parametrize("threat", WIDE, ids=str)
def test_what_has_no_length_stays_and_the_rest_reaches_the_boundary(threat):
    target = Target(model(), read_batch(TOKENIZER, ROWS, "prompt", "cpu"), threat)
    search = Search(target, target.ball(1.5), list(range(len(ROWS))), steps=1)
    assert torch.equal(search.to_boundary(target.origin), target.origin)
    moved = target.batch.perturbable
    for length in (1e-30, 1.0):
        delta = torch.full_like(target.origin, length) * moved[..., None]
        reached = search.ball.norms(search.to_boundary(delta))
        reached = reached if reached.ndim == 1 else reached.masked_fill(~moved, 0).amax(dim=1)
        assert torch.allclose(reached, search.ball.epsilon, rtol=1e-4)
