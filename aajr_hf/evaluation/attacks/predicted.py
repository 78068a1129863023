"""
Gradients predicted from forward passes alone: kernel ridge regression from an agent's last hidden states and the error
of its output to the gradient of the loss in the embeddings. The idea is that of arXiv 2605.14868; kernel and features
are this package's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ...training.policy.policy import AgentPolicy
from .alignment import placed
from .losses import LOSSES
from .target import Target

# Strengths of the ridge that are tried, in units of the kernel's mean diagonal.
_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class Features(NamedTuple):
    """
    What a forward pass shows of each example at the A tokens of the answer.

    Attributes:
        errors: (B, A, E), the gradient of the loss in the output of the last layer, E wide; zero on padding.
        hidden: (B, A, H), this output; zero on padding.
    """

    errors: Tensor
    hidden: Tensor

    @classmethod
    def joined(cls, parts: list[Features]) -> Features:
        """Return the features of several batches, padded to the longest answer."""
        longest = max(part.errors.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return cls(
            *(torch.cat([pad(x, (0, 0, 0, longest - x.shape[1])) for x in each]) for each in zip(*parts, strict=True))
        )


class Agreement(NamedTuple):
    """
    How well gradients are predicted, means over examples.

    Attributes:
        cosine: Cosine between predicted and true gradients.
        signs: Share of the perturbable coordinates in which both have the same sign.
        examples: Number of examples.
    """

    cosine: float
    signs: float
    examples: int


@dataclass(frozen=True)
class GradientPredictor:
    """
    A fitted regression with the kernel `sum_a <e_a, e'_a> (1 + <h_a, h'_a>)^2` over the tokens a of the answer: the
    true gradient is `sum_a J_a' e_a`, and the kernel lets J_a be a quadratic function of the hidden state.

    Attributes:
        errors, hidden: [`Features`] of the N examples of the fit; `hidden` is divided by `scale`.
        weights: (N, length, d), the regression's dual coefficients, aligned at the last perturbable token.
        scale: The root mean square norm of the hidden states.
    """

    errors: Tensor
    hidden: Tensor
    weights: Tensor
    scale: float

    @classmethod
    def fit(cls, features: Features, gradients: Tensor) -> GradientPredictor:
        """
        Fit the regression to gradients (N, length, d). The ridge is the one with the smallest leave-one-out error.

        Raises:
            ValueError: for fewer than two examples.
        """
        if len(gradients) < 2:
            raise ValueError(f"A predictor of gradients needs at least two examples; got {len(gradients)}.")
        # Kernel and gradients are linear in the errors. With errors of one size, each example counts alike: those of a
        # confident agent differ by orders of magnitude.
        sizes = (
            features.errors.flatten(1).norm(dim=1).clamp_min(torch.finfo(features.errors.dtype).tiny)[:, None, None]
        )
        errors, gradients = features.errors / sizes, gradients / sizes
        used = features.errors.flatten(2).norm(dim=-1) > 0
        norms = features.hidden.norm(dim=-1)[used]
        scale = float(norms.square().mean().sqrt()) if len(norms) and float(norms.max()) > 0 else 1.0
        hidden = features.hidden / scale
        kernel = _kernel((errors, hidden), (errors, hidden))
        targets = gradients.flatten(1).double()
        values, vectors = torch.linalg.eigh(kernel)
        unit, rotated = float(kernel.diagonal().mean()), vectors.T @ targets
        best, smallest = None, float("inf")
        for ridge in _RIDGES:
            inverse = 1 / (values.clamp_min(0) + max(ridge * unit, torch.finfo(torch.float64).tiny))
            weights = vectors @ (inverse[:, None] * rotated)
            # The residual of an example that is left out (Allen's PRESS), without another fit.
            left_out = weights / ((vectors.square() * inverse).sum(dim=1))[:, None]
            if (error := float(left_out.square().sum())) < smallest:
                best, smallest = weights, error
        return cls(errors, hidden, best.reshape(gradients.shape).to(gradients.dtype), scale)

    def predict(self, features: Features) -> Tensor:
        """Return the gradients (B, length, d) of examples with these features."""
        ours, theirs = (features.errors, features.hidden / self.scale), (self.errors, self.hidden)
        kernel = _kernel(ours, theirs).to(self.weights.dtype)
        return torch.einsum("bn,nld->bld", kernel, self.weights)

    def on(self, target: Target, loss: str) -> Tensor:
        """Return the predicted gradients of a loss at the unperturbed prompts, (B, L, d), from one forward pass."""
        return placed(self.predict(features_of(target, loss)), target.batch.perturbable)

    def check_fits(self, target: Target) -> None:
        """
        Check that the regression was fitted to a model with the widths of this one.

        Raises:
            ValueError: if not.
        """
        head = target.model.get_output_embeddings().weight.shape[1]
        for what, ours, theirs in (
            ("embeddings", self.weights.shape[-1], target.origin.shape[-1]),
            ("last hidden states", self.hidden.shape[-1], head),
        ):
            if ours != theirs:
                raise ValueError(
                    f"the predictor was fitted to {what} of width {ours}, and those of the model have width {theirs}: "
                    "fit it to this model, or to one like it"
                )

    def save(self, file: str | Path) -> None:
        """Save the regression as safetensors. The file appears, or replaces an older one, only when it is complete."""
        tensors = {name: getattr(self, name).contiguous().cpu() for name in ("errors", "hidden", "weights")}
        unfinished = Path(f"{file}.unfinished")
        try:
            unfinished.write_bytes(save(tensors | {"scale": torch.tensor(self.scale, dtype=torch.float64)}))
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: str | Path) -> GradientPredictor:
        """
        Load a regression that [`GradientPredictor.save`] has saved.

        Raises:
            ValueError: if the file holds something else.
            OSError, SafetensorError: if it cannot be read.
        """
        tensors = load_file(file)
        if tensors.keys() != {"errors", "hidden", "weights", "scale"}:
            raise ValueError(f"{file} holds no predictor of gradients: give a file that `aajr screen --save` wrote")
        return cls(**tensors | {"scale": float(tensors["scale"])})

    def to(self, device: torch.device) -> GradientPredictor:
        """Return the regression on a device."""
        parts = (each.to(device) for each in (self.errors, self.hidden, self.weights))
        return GradientPredictor(*parts, self.scale)


@torch.no_grad()
def features_of(target: Target, loss: str) -> Features:
    """Make one forward pass, and return its features for a loss of `LOSSES`. No gradient passes through the model."""
    policy, batch = target.policy, target.batch
    seen = AgentPolicy(policy.model, batch, prefix=policy.prefix, output_hidden_states=True)
    logits, outputs = seen.with_outputs(target.origin)
    first = 0 if policy.prefix is None else policy.prefix.length
    hidden = batch.at_actions(outputs.hidden_states[-1], first).to(logits.dtype)
    with torch.enable_grad():
        logits.requires_grad_(True)
        (errors,) = torch.autograd.grad(LOSSES[loss](logits, batch).sum(), logits)
    head = policy.model.get_output_embeddings().weight
    kept = batch.action_mask[..., None]
    return Features((errors @ head.to(errors.dtype)) * kept, hidden * kept)


def agreement(predicted: Tensor, true: Tensor, mask: Tensor) -> Agreement:
    """Compare predicted and true gradients (B, L, d) on the perturbable tokens (B, L)."""
    kept = mask[..., None]
    cosine = torch.nn.functional.cosine_similarity((predicted * kept).flatten(1), (true * kept).flatten(1), dim=1)
    same = ((predicted.sign() == true.sign()) & kept).flatten(1).sum(dim=1)
    signs = same / (mask.sum(dim=1) * true.shape[-1])
    return Agreement(float(cosine.mean()), float(signs.double().mean()), len(true))


def mean_agreement(parts: list[Agreement]) -> Agreement:
    """Return the agreement over the examples of several batches."""
    examples = sum(part.examples for part in parts)
    cosine, signs = (
        sum(getattr(part, name) * part.examples for part in parts) / examples for name in ("cosine", "signs")
    )
    return Agreement(cosine, signs, examples)


def _kernel(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    """Return the kernel (B, N) in float64. Answers of different lengths share the tokens that both have."""
    width = min(ours[0].shape[1], theirs[0].shape[1])
    (errors, hidden), (others, other_hidden) = ([each[:, :width].double() for each in pair] for pair in (ours, theirs))
    products = torch.einsum("bae,nae->bna", errors, others)
    return (products * (1 + torch.einsum("bah,nah->bna", hidden, other_hidden)).square()).sum(dim=-1)
