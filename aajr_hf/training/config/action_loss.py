"""Fields of the loss that the adversary of the SFT trainer raises."""

from __future__ import annotations

from dataclasses import dataclass, field

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
            `"distillation"`: the divergence of the predictions of the action's tokens from those of a `teacher`.
        teacher (`str`, *optional*):
            Folder or Hub name of the teacher of `system_loss: distillation`: any causal language model, or an adapter, with the
            tokenizer of the trained model.
        teacher_view (`str`, *optional*, defaults to `"clean"`):
            What the teacher sees in the loss that training lowers. `"clean"`: the unperturbed prompt; `"perturbed"`: the prompt with
            the adversary's perturbation of the student, for teachers that share the student's embeddings. The adversary raises
            the divergence from the clean teacher.
        teacher_entropy_floor (`float`, *optional*, defaults to `0.0`):
            Entropy, in nats per token, up to which a surer teacher is tempered where the student's most likely token is another
            one, so that the student does not memorise what it cannot follow. `0`: the teacher stays as it is.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    system_loss: str = choice(
        "system_loss",
        "nll",
        "Loss that the adversary raises and training lowers. 'nll': negative log-likelihood of the action; 'expected_cost': its "
        "expected system cost (dataset columns `actions` and `action_costs`); 'distillation': the divergence from a `teacher`.",
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub name of the teacher of `system_loss: distillation`; needs the model's tokenizer."
        },
    )
    teacher_view: str = choice(
        "teacher_view",
        "clean",
        "What the teacher sees in the loss that training lowers: the prompt itself, or the prompt with the adversary's perturbation.",
    )
    teacher_entropy_floor: float = field(
        default=0.0,
        metadata={
            "help": "Entropy in nats up to which a surer teacher is tempered where the student's most likely token is another one."
        },
    )
