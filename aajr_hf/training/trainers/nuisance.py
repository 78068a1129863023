"""The covariance of nuisances of a run: estimated on a fixed probe when it is first needed, and kept in checkpoints."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..adversary.ascent import PromptAscent
from ..adversary.nuisance import factor_of, variant_differences
from ..adversary.sensitivity import directions_to_other_answers
from ..data.batch import AgentBatch
from ..data.collation import column_names, encode_examples
from ..data.variants import VARIANTS, with_variants
from ..models.loading import text_tokenizer
from ..policy.policy import AgentPolicy, fixed_seed
from .probe import ROWS

_FILE = "nuisance.safetensors"


class NuisanceMixin:
    """Mixin for a trainer with a probe ([`~.probe.ProbeMixin`]): the factor of the regularizer `matched`."""

    _nuisance: Tensor | None = None
    # The first rows of the data, each followed by its variants; set if these are used.
    _varied: list[list[dict[str, Any]]]

    @torch.no_grad()
    def nuisance_factor(self) -> Tensor:
        """The factor of [`factor_of`], (d, r), equal in all processes."""
        if self._nuisance is None:
            if self.args.needs_variants:
                moment = self._moment_of_variants()
            else:
                moments = sum(self._moment(ascent) for ascent in self.probe_ascents())
                moment = self.accelerator.reduce(moments, "sum")
            self._nuisance = factor_of(moment, self.args.nuisance_rank)
        return self._nuisance

    def _take_variants(self, dataset, seed: int):
        """
        Keep the variants of the first rows of a dataset of messages, and return the dataset without them.

        Raises:
            ValueError: if there are none; names the field.
        """
        self._varied = with_variants(islice(dataset, ROWS), seed)
        if not self._varied:
            raise ValueError(
                f"`nuisance` variants: none of the first {ROWS} rows has texts in a column `{VARIANTS}`, or calls tools without "
                "using all numbers and names: give such rows (not every `environment` has variants), or set `nuisance` to ascent."
            )
        return dataset.remove_columns(VARIANTS) if VARIANTS in column_names(dataset) else dataset

    def _moment_of_variants(self) -> Tensor:
        """The second moment (d, d) of the differences between rows and their variants. Every process reads all rows."""
        model, found = self.accelerator.unwrap_model(self.model), []
        settings = {"candidates": False, "perturbed_tokens": self.args.perturbed_tokens}
        with self._without_dropout():
            for rows in self._varied:
                inputs = encode_examples(text_tokenizer(self.processing_class), rows, **settings)
                inputs = {name: value.to(self.accelerator.device) for name, value in inputs.items()}
                batch = AgentBatch.from_inputs(inputs, self.args.perturbed_tokens)
                state = AgentPolicy(model, batch, layer=self.args.perturbed_layer).embeddings()
                found.append(variant_differences(state, batch))
        rows = torch.cat(found)
        if not rows.any():
            raise ValueError(
                "`nuisance` variants: no variant has as many tokens as its row and differs from it in `perturbed_tokens`: give "
                "other ones, or set `nuisance` to ascent."
            )
        return rows.T @ rows

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
