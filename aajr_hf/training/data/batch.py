"""One micro-batch for the objective: which positions may be perturbed, and which logits predict actions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .roles import INCIDENTAL, OBSERVED_ROLES

# Columns of an example that the model itself does not take; see `collation.py`.
EXTRA_COLUMNS = ("observation_mask", "candidate_position", "candidate_tokens", "candidate_costs", "radius_factor")


@dataclass(frozen=True)
class PackedRow:
    """
    Documents that the model sees in one row, one after the other (packing, padding-free batches).

    Attributes:
        inputs: The model's arguments: `input_ids` and `position_ids` (1, T), and where the documents begin and end.
        tokens: (T,), for each token of the row its index in the documents' flattened (B, L) tokens.
        starts: (B,), the position in the row at which each document begins.
    """

    inputs: dict[str, Any]
    tokens: Tensor
    starts: Tensor


@dataclass
class AgentBatch:
    """
    Examples, or the documents of a packed row; the objective treats both alike.

    Attributes:
        input_ids, attention_mask: (B, L), padded on the right.
        perturbable: (B, L) bool, the positions P.
        action_positions: (B, A), indices of the logits that predict action tokens; rows are padded with 0.
        action_mask: (B, A) bool, false on that padding.
        action_labels: (B, A), the tokens to predict.
        candidate_column: (B,), the column of `action_positions` that chooses among the candidates.
        candidate_tokens, candidate_costs, candidate_mask: (B, N), first distinguishing token and system cost of each
            candidate action. These four are None without `system_loss=expected_cost`.
        radius_factor: (B,), by which the adversary's radius and step size are multiplied; None: by 1.
        packed: The row in which the model sees the documents; None if the model sees the batch itself.
    """

    input_ids: Tensor
    attention_mask: Tensor
    perturbable: Tensor
    action_positions: Tensor
    action_mask: Tensor
    action_labels: Tensor
    candidate_column: Tensor | None = None
    candidate_tokens: Tensor | None = None
    candidate_costs: Tensor | None = None
    candidate_mask: Tensor | None = None
    radius_factor: Tensor | None = None
    packed: PackedRow | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> AgentBatch:
        """The sub-batch of the given rows, padded. If all rows are given in order, a packed batch stays as it is."""
        if self.packed is not None and torch.equal(rows, torch.arange(len(self), device=rows.device)):
            return self  # with dropout, an example's masks depend on its place
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "packed"}
        return AgentBatch(**{name: None if value is None else value[rows] for name, value in values.items()})

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for the model."""
        if self.packed is not None:
            return self.packed.inputs
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def as_model_sees(self, values: Tensor) -> Tensor:
        """Arrange vectors of the tokens, (B, L, d), as the model sees these tokens."""
        return values if self.packed is None else values.flatten(0, 1)[self.packed.tokens][None]

    def by_document(self, states: Tensor) -> Tensor:
        """The inverse of [`as_model_sees`]: vectors of the tokens in the order of the model, as (B, L, d); 0 on padding."""
        if self.packed is None:
            return states
        tokens = states.new_zeros(self.input_ids.numel(), states.shape[-1])
        tokens[self.packed.tokens] = states[0]
        return tokens.unflatten(0, self.input_ids.shape)

    def at_actions(self, hidden: Tensor, first: int = 0) -> Tensor:
        """The model's hidden states at the action positions, (B, A, h); `hidden` begins with token `first`."""
        if self.packed is not None:
            return hidden[0][self.packed.starts[:, None] + self.action_positions]
        positions = (self.action_positions - first).clamp_min(0)  # padding points to token 0
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))

    @classmethod
    def from_inputs(cls, inputs: dict[str, Tensor], perturbed_tokens: str, first: int = 0) -> AgentBatch:
        """
        Make a batch from the collator's output; `first` is the number of its first example, for error messages.

        Raises:
            ValueError: if the batch is padded on the left, or an example has no perturbable or no action token.
        """
        packed = None
        if "position_ids" in inputs:
            inputs, packed = _documents(inputs)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        if bool((mask.diff(dim=1) > 0).any()):
            raise ValueError(
                "The batch is padded on the left, where positions that attend to nothing make the penalty's gradients "
                "NaN: set the tokenizer's `padding_side` to 'right'."
            )
        perturbable = perturbable_tokens(inputs, perturbed_tokens) & mask.bool()
        positions, valid, labels = action_logits(inputs["labels"])
        for name, found in (("perturbable", perturbable.any(dim=1)), ("action", valid.any(dim=1))):
            if perturbed_tokens == INCIDENTAL and name == "perturbable":
                continue  # the adversary moves nothing in such an example
            if not bool(found.all()):
                raise ValueError(missing_tokens_message(name, perturbed_tokens, first + int((~found).nonzero()[0])))
        candidates = {}
        if "candidate_tokens" in inputs:
            here = (positions == inputs["candidate_position"][:, None]) & valid
            candidates = {
                "candidate_column": here.int().argmax(dim=1),
                "candidate_tokens": inputs["candidate_tokens"].clamp_min(0),
                "candidate_costs": inputs["candidate_costs"],
                "candidate_mask": inputs["candidate_tokens"] >= 0,
            }
        more = candidates | {"radius_factor": inputs.get("radius_factor"), "packed": packed}
        return cls(inputs["input_ids"], mask, perturbable, positions, valid, labels, **more)


def _documents(inputs: dict[str, Any]) -> tuple[dict[str, Any], PackedRow]:
    """The documents of a padding-free row as a padded batch, and the row."""
    starts = (inputs["position_ids"][0] == 0).nonzero().flatten()
    lengths = torch.cat([starts, starts.new_tensor([inputs["position_ids"].shape[1]])]).diff()
    places = torch.arange(int(lengths.max()), device=starts.device)
    mask = places < lengths[:, None]
    documents = {"attention_mask": mask.long()}
    for name in ("input_ids", "labels", "observation_mask"):
        if name in inputs:
            padding = -100 if name == "labels" else 0
            values = inputs[name].new_full(mask.shape, padding)
            values[mask] = inputs[name][0]
            documents[name] = values
    by_document = {name: inputs[name] for name in EXTRA_COLUMNS if name in inputs and name != "observation_mask"}
    of_model = {name: value for name, value in inputs.items() if name not in ("labels", *EXTRA_COLUMNS)}
    return documents | by_document, PackedRow(of_model, mask.flatten().nonzero().flatten(), starts)


def perturbable_tokens(inputs: dict[str, Tensor], perturbed_tokens: str) -> Tensor:
    """
    Which tokens (B, L) `perturbed_tokens` selects, without regard to padding. Except for `all`, only tokens that are
    no action and come before an action are selected, because later tokens change no action.
    """
    labels = inputs["labels"]
    if perturbed_tokens == "all":
        return torch.ones_like(labels, dtype=torch.bool)
    is_action = labels != -100
    followed = is_action.flip(1).cumsum(dim=1).flip(1) > 0
    named = followed & ~is_action
    return named & inputs["observation_mask"].bool() if perturbed_tokens in OBSERVED_ROLES else named


def missing_tokens_message(kind: str, perturbed_tokens: str, row: int) -> str:
    """Error message for an example without a perturbable or an action token, with the remedy."""
    if kind == "action":
        remedy = "give every example a non-empty completion, and raise `max_length` if it is cut off"
    elif perturbed_tokens == INCIDENTAL:
        remedy = (
            "give examples with `tools` and calls that do not use every number and name of the prompt, or set "
            "`perturbed_tokens` to observation"
        )
    elif perturbed_tokens in OBSERVED_ROLES:
        who = " or ".join(role for role in ("user", "tool") if perturbed_tokens in (role, "observation"))
        remedy = f"give every example a {who} message before an action, or set `perturbed_tokens` to prompt"
    else:
        remedy = "use prompt/completion examples with a prompt, or set `perturbed_tokens` to all"
    return f"Example {row} has no {kind} token: {remedy}."


def action_logits(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Find the logits that predict labelled tokens: the logits at j-1 predict token j.

    Args:
        labels: (B, L), -100 on tokens that are not actions.

    Returns:
        `(positions, valid, targets)`, each (B, A), with A the largest number of action tokens; padding is at the end
        of a row, with position 0 and target 0.
    """
    shifted = labels[:, 1:]
    is_action = shifted != -100
    width = max(int(is_action.sum(dim=1).max()), 1)
    # Stable, so that action positions come first and in order.
    positions = (~is_action).int().argsort(dim=1, stable=True)[:, :width]
    valid = is_action.gather(1, positions)
    targets = shifted.gather(1, positions)
    return positions.masked_fill(~valid, 0), valid, targets.masked_fill(~valid, 0)
