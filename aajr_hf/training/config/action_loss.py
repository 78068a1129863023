"""Fields of the loss that the adversary of the SFT trainer raises."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import AdversaryFields, choice


@dataclass
class ActionLossField(AdversaryFields):
    r"""
    The loss that the adversary of [`AAJRTrainer`] raises. Other trainers use their own loss.

    Parameters:
        > Parameters that control the adversary's loss

        system_loss (`str`, *optional*, defaults to `"nll"`):
            The loss that the adversary raises and training lowers. `"nll"`: negative log-likelihood of the action's tokens.
            `"expected_cost"`: expected system cost of the action, from the dataset columns `actions` and `action_costs`.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    system_loss: str = choice(
        "system_loss",
        "nll",
        "Loss that the adversary raises and training lowers. 'nll': negative log-likelihood of the action; 'expected_cost': its "
        "expected system cost (dataset columns `actions` and `action_costs`).",
    )
