"""One micro-batch as the objective sees it: which positions may be perturbed, and which logits predict actions."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Columns of an example that the model itself does not take; see `data.py`.
EXTRA_COLUMNS = ("observation_mask", "candidate_position", "candidate_tokens", "candidate_costs")


@dataclass
class AgentBatch:
    """
    Attributes:
        input_ids, attention_mask: (B, L), padded on the right.
        perturbable: (B, L) bool, the positions P.
        action_positions: (B, A), indices of the logits that predict action tokens; rows are padded with 0.
        action_mask: (B, A) bool, false on that padding.
        action_labels: (B, A), the tokens to predict.
        candidate_column: (B,), the column of `action_positions` that chooses among the candidates.
        candidate_tokens, candidate_costs, candidate_mask: (B, N), first distinguishing token and system cost of each
            candidate action. These four are None without `system_loss=expected_cost`.
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

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> AgentBatch:
        """The sub-batch of the given rows."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return AgentBatch(**{name: None if value is None else value[rows] for name, value in values.items()})

    @classmethod
    def from_inputs(cls, inputs: dict[str, Tensor], perturbed_tokens: str) -> AgentBatch:
        """
        Read the collator's output.

        Raises:
            ValueError: for left padding, an example without perturbable or without action tokens.
        """
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        if bool((mask.diff(dim=1) > 0).any()):
            raise ValueError(
                "The batch is padded on the left: rows that attend to nothing make the penalty's gradients NaN. Set the "
                "tokenizer's `padding_side` to 'right'."
            )
        perturbable = mask.bool()
        if perturbed_tokens == "observation":
            perturbable = perturbable & inputs["observation_mask"].bool()
        elif perturbed_tokens == "prompt":
            perturbable = perturbable & (inputs["labels"] == -100)
        positions, valid, labels = action_logits(inputs["labels"])
        for name, found in (("perturbable", perturbable.any(dim=1)), ("action", valid.any(dim=1))):
            if not bool(found.all()):
                raise ValueError(missing_tokens_message(name, perturbed_tokens, int((~found).nonzero()[0])))
        candidates = {}
        if "candidate_tokens" in inputs:
            here = (positions == inputs["candidate_position"][:, None]) & valid
            candidates = {
                "candidate_column": here.int().argmax(dim=1),
                "candidate_tokens": inputs["candidate_tokens"].clamp_min(0),
                "candidate_costs": inputs["candidate_costs"],
                "candidate_mask": inputs["candidate_tokens"] >= 0,
            }
        return cls(inputs["input_ids"], mask, perturbable, positions, valid, labels, **candidates)


def missing_tokens_message(kind: str, perturbed_tokens: str, row: int) -> str:
    """Why an example that has no perturbable, or no action token, cannot be trained on, and what to do."""
    if kind == "action":
        remedy = "give every example a non-empty completion, and raise `max_length` if it is cut off"
    elif perturbed_tokens == "observation":
        remedy = "give every example a user or tool message, or set `perturbed_tokens` to prompt"
    else:
        remedy = "use prompt/completion examples with a prompt, or set `perturbed_tokens` to all"
    return f"Example {row} has no {kind} token: {remedy}."


def action_logits(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Where the logits lie that predict labelled tokens: those at j-1 predict token j.

    Args:
        labels: (B, L), -100 on tokens that are not actions.

    Returns:
        `(positions, valid, targets)`, each (B, A), with A the largest number of action tokens; padding is at the end of
        a row, with position 0 and target 0.
    """
    shifted = labels[:, 1:]
    is_action = shifted != -100
    width = max(int(is_action.sum(dim=1).max()), 1)
    # Stable, so that action positions come first and in order.
    positions = (~is_action).int().argsort(dim=1, stable=True)[:, :width]
    valid = is_action.gather(1, positions)
    targets = shifted.gather(1, positions)
    return positions.masked_fill(~valid, 0), valid, targets.masked_fill(~valid, 0)
