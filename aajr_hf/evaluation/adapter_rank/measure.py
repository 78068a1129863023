"""
Which rank an adapter needs, measured: how many directions the adversary takes, how many its images and the gradient of the
penalty span, and how many an update that has been trained used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...objective import directional_jacobian
from ...training.adversary.ascent import PromptAscent, ascend
from ...training.models.adapters import linear_layers
from ...training.policy.forward_mode import forward_ad_ready
from ...training.policy.outputs import PenalisedOutput
from ...training.sharing.results import RankNumbers, RankRecommendation, Spectrum
from ...training.trainers.sft import AAJRTrainer
from .spectrum import RowSpectrum, coverage, directions_for, matrix_singular_values, stable_rank

SHARES = (0.90, 0.95, 0.99)
_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A module whose update is rounding has not been trained.
_ROUNDING = 1e-6


def measure_rank(trainer: AAJRTrainer, base: PreTrainedModel | None = None, on_progress=lambda: None) -> RankNumbers:
    """
    Measure on the trainer's data, at the weights that its model has.

    Args:
        trainer: With a model without adapter (merge one before), the regularizer `aajr` and held-out data.
        base: The model before training, if its update is to be measured.
        on_progress: Called after each batch.

    Returns:
        `directions` and `images`: spectra of the matrices whose rows are the positions of the ascent directions u_t, and of
        J u_t; `penalty_gradient` and, with `base`, `update`: spectra by module, of the gradient of equation 20 by its weight
        (summed over the data) and of what training has added to it; `recommendation`. A spectrum is an object of
        `singular_values` (the largest), `coverage` (share of the energy by rank), `directions` (how many carry 90, 95 and
        99 %; null if not even all that are known), `stable_rank` and `size`, the largest number there can be.

    Raises:
        ValueError: where Jacobian products are not exact.
    """
    if trainer.estimator != "jvp":
        raise ValueError("The spectra need exact Jacobian products: set `attn_implementation` to sdpa or eager.")
    result = _along_the_ascent(trainer, on_progress)
    result["update"] = {} if base is None else update_spectra(trainer.model, base)
    result["recommendation"] = recommendation(result["penalty_gradient"])
    return result


def _along_the_ascent(trainer: AAJRTrainer, on_progress) -> dict[str, Spectrum | dict[str, Spectrum]]:
    model = trainer.model.eval()
    weights = {name: model.get_submodule(name).weight for name in linear_layers(model)}
    gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    directions = images = None
    for inputs in trainer.get_train_dataloader():
        system = trainer._system_loss(trainer._prepare_inputs(inputs), None)
        batch, policy = system.batch, system.policy(model, None)
        ascent = ascend(trainer.args, policy, system, 1.0, keep_products=False).of_penalty
        for t in range(ascent.trajectory.steps):
            direction = ascent.trajectory.directions[t]
            image = _image(trainer, ascent, t, direction)
            if directions is None:
                directions, images = RowSpectrum(direction.shape[-1]), RowSpectrum(image.shape[-1])
            directions.add(direction[batch.perturbable])
            images.add(image[batch.action_mask])
            value = image.square().sum() / ascent.trajectory.steps
            for name, part in zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True):
                gradients[name] += part
        on_progress()
    return {
        "directions": _summary(directions.singular_values(), directions.width, directions.energy),
        "images": _summary(images.singular_values(), images.width, images.energy),
        "penalty_gradient": {name: _matrix_summary(gradient) for name, gradient in gradients.items()},
    }


def _image(trainer: AAJRTrainer, ascent: PromptAscent, t: int, direction: Tensor) -> Tensor:
    """J u_t of the penalised output, (B, A, V), or (B, A, 1) of a margin, with its graph."""
    penalised = PenalisedOutput.of(trainer.args, ascent.policy.batch)
    output, point = penalised.after(ascent.policy), ascent.trajectory.deltas[t]
    with forward_ad_ready(trainer.model):
        return directional_jacobian(output, point, direction, weigh=penalised.weigh)[1]


def update_spectra(model: PreTrainedModel, base: PreTrainedModel) -> dict[str, Spectrum]:
    """The spectrum of what training has added, by linear layer; of those alone that it has changed."""
    summaries = {}
    for name in linear_layers(model):
        before = base.get_submodule(name).weight.detach()
        update = model.get_submodule(name).weight.detach() - before
        if float(update.norm()) > _ROUNDING * float(before.norm()):
            summaries[name] = _matrix_summary(update)
    return summaries


def _matrix_summary(matrix: Tensor) -> Spectrum:
    return _summary(matrix_singular_values(matrix), min(matrix.shape), float(matrix.double().square().sum()))


def _summary(singular_values: Tensor, size: int, energy: float) -> Spectrum:
    shares = coverage(singular_values, energy)
    return {
        "size": size,
        "stable_rank": stable_rank(singular_values),
        "directions": {f"{share:.0%}": directions_for(shares, share) for share in SHARES},
        "coverage": {str(rank): float(shares[min(rank, len(shares)) - 1]) for rank in _RANKS if rank <= size},
        "singular_values": singular_values[:256].tolist(),
    }


def recommendation(modules: dict[str, Spectrum], share: float = 0.95) -> RankRecommendation:
    """
    The smallest rank that covers the share in every module, a smaller one beside it, and both as a sentence.

    Args:
        modules: Spectra by module, as [`measure_rank`] gives them for the penalty's gradient.
    """
    needed = {name: module["directions"][f"{share:.0%}"] for name, module in modules.items()}
    unknown = [name for name, rank in needed.items() if rank is None]
    if unknown:
        return {"share": share, "rank": None, "sentence": f"No rank up to 256 covers {share:.0%} in {unknown[0]}."}
    module, rank = max(needed.items(), key=lambda item: item[1])
    smaller = max((r for r in _RANKS if r <= min(8, rank // 2)), default=None)
    sentence = f"Rank {rank} covers {share:.0%} of the penalty's gradient in every module"
    found = {"share": share, "rank": rank, "module": module, "smaller": smaller}
    if smaller is not None:
        worst = min(m["coverage"][str(smaller)] for m in modules.values() if str(smaller) in m["coverage"])
        found["smaller_share"] = worst
        sentence += f"; rank {smaller} covers {worst:.0%}"
    return found | {"sentence": f"{sentence}."}
