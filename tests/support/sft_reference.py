"""The penalty of a tiny trainer, by the full Jacobian."""

from __future__ import annotations

import torch

from .reference import Reference
from .tiny import tiny_model, trainer

# Llama computes its norms in fp32, whatever its weights are.
TOLERANCE = 1e-5


def first_batch(run):
    """What the trainer's first step will see."""
    torch.manual_seed(run.args.seed)
    return next(iter(run.get_train_dataloader()))


def reference_for(folder, **overrides):
    run = trainer(folder, **overrides)
    inputs = first_batch(run)
    return Reference(
        tiny_model(), inputs, epsilon=overrides.get("epsilon", 0.25), system_loss=overrides.get("system_loss", "nll")
    )
