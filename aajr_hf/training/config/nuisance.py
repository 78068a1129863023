"""Fields of the regularizer `matched`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import AdversaryFields, choice


@dataclass
class NuisanceFields:
    r"""
    The covariance that the regularizer `matched` follows. It is estimated once, from the first 32 rows of the training data
    and the weights at that time, and kept in checkpoints.

    Parameters:
        > Parameters of the regularizer matched

        nuisance (`str`, *optional*, defaults to `"ascent"`):
            Directions of the tokens' embeddings whose covariance counts. `"ascent"`: those of the adversary's ascents.
            `"variants"`: from rows to their variants, which leave the right answer as it is and have as many tokens: those of
            an `environment` or of a column `variants` (texts in place of the last message of the user), and for tool calls other
            numbers and names where the call does not use them. Two controls: `"random"`, a random subspace, and `"answers"`,
            directions to observations with other right answers, which an agent must not ignore.
        nuisance_rank (`int`, *optional*, defaults to `32`):
            Number of principal directions that are kept.
    """

    _argument_group_name = AdversaryFields._argument_group_name

    nuisance: str = choice(
        "nuisance",
        "ascent",
        "Directions whose covariance the regularizer matched follows: those of the ascents; those to variants of observations with "
        "the same right answer; as controls, a random subspace, or directions to other right answers.",
    )
    nuisance_rank: int = field(
        default=32, metadata={"help": "Number of principal directions that the regularizer matched keeps."}
    )

    @property
    def needs_variants(self) -> bool:
        """Whether the variants of rows are used."""
        return self.penalty_active and self.regularizer == "matched" and self.nuisance == "variants"
