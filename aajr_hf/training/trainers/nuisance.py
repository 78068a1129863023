"""The covariance of nuisances of a run: estimated on a fixed probe when it is first needed, and kept in checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..adversary.ascent import PromptAscent
from ..adversary.nuisance import factor_of
from ..adversary.sensitivity import directions_to_other_answers
from ..policy.policy import fixed_seed

_FILE = "nuisance.safetensors"


class NuisanceMixin:
    """Mixin for a trainer with a probe ([`~.probe.ProbeMixin`]): the factor of the regularizer `matched`."""

    _nuisance: Tensor | None = None

    @torch.no_grad()
    def nuisance_factor(self) -> Tensor:
        """The factor of [`factor_of`], (d, r), equal in all processes."""
        if self._nuisance is None:
            moment = sum(self._moment(ascent) for ascent in self.probe_ascents())
            self._nuisance = factor_of(self.accelerator.reduce(moment, "sum"), self.args.nuisance_rank)
        return self._nuisance

    def _moment(self, ascent: PromptAscent) -> Tensor:
        """The second moment (d, d) of the directions at the perturbable tokens of a micro-batch."""
        batch, width = ascent.policy.batch, ascent.state.shape[-1]
        with fixed_seed(ascent.state.device, self.args.seed):
            if self.args.nuisance == "random":
                rows = torch.randn(min(self.args.nuisance_rank, width), width, device=ascent.state.device)
                rows = torch.linalg.qr(rows.T)[0].T  # a subspace in which no direction is preferred
            elif self.args.nuisance == "answers":
                rows = directions_to_other_answers(ascent.state, batch)[batch.perturbable]
            else:
                rows = ascent.trajectory.directions[:, batch.perturbable].flatten(0, 1)
        return (rows.T @ rows).float()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._nuisance is not None and self.args.should_save:
            save_file({"factor": self._nuisance.contiguous()}, Path(output_dir) / _FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (file := Path(checkpoint) / _FILE).is_file():
            self._nuisance = load_file(file)["factor"].to(self.accelerator.device)
