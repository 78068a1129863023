"""
Measure which rank an adapter needs: the numbers of directions that are spanned by the adversary's ascent, by its
images, by the gradient of the penalty, and by the weight update of a trained model.
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
# A smaller relative update is rounding: the module was not trained.
_ROUNDING = 1e-6


def measure_rank(trainer: AAJRTrainer, base: PreTrainedModel | None = None, on_progress=lambda: None) -> RankNumbers:
    """
    Measure the spectra on the trainer's data, at the current weights of its model.

    Args:
        trainer: Trainer with a model without adapter (merge it first), the regularizer `aajr` and held-out data.
        base: Model before training; if given, the update is measured, too.
        on_progress: Called after each batch.

    Returns:
        - `directions` and `images`: spectra of the matrices whose rows are the positions of the ascent directions u_t,
          and of J u_t.
        - `penalty_gradient`: by module, the spectrum of the gradient of equation 20 with respect to the module's
          weight, summed over the data.
        - `update`: by module, the spectrum of the change of the weight in training; empty without `base`.
        - `recommendation`: see [`recommendation`].

        A spectrum has `singular_values` (the largest), `coverage` (share of the energy by rank), `directions` (number
        of directions that carry 90, 95 and 99 %; null if all known ones do not), `stable_rank` and `size` (largest
        possible number of directions).

    Raises:
        ValueError: if Jacobian products are not exact.
    """
    if trainer.estimator != "jvp":
        raise ValueError(
            "`attn_implementation` must give exact Jacobian products for the spectra: set it to sdpa or eager."
        )
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
    """Return J u_t of the penalised output, (B, A, V), or (B, A, 1) for a margin, with its autograd graph."""
    penalised = PenalisedOutput.of(trainer.args, ascent.policy.batch)
    output, point = penalised.after(ascent.policy), ascent.trajectory.deltas[t]
    with forward_ad_ready(trainer.model):
        return directional_jacobian(output, point, direction, weigh=penalised.weigh)[1]


def update_spectra(model: PreTrainedModel, base: PreTrainedModel) -> dict[str, Spectrum]:
    """Return the spectrum of the weight change in training for each linear layer that training changed."""
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
    Recommend the smallest rank that covers the share in every module, and a smaller alternative.

    Args:
        modules: Spectra by module, such as `penalty_gradient` of [`measure_rank`].
        share: Share of the energy to cover.

    Returns:
        Both ranks, and a sentence that states them.
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
