"""Warnings if one term of the loss drowns the others."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

# Beyond this multiple of the clean loss, a term leaves the task almost no influence on the weights.
_TOO_LARGE = 100.0
# Smallest clean loss that counts, in nats per token: the loss of a trained agent may be close to zero.
_LEAST_LOSS = 0.1


class LossBalance:
    """
    Warns once if the penalty, and once if the adversarial loss, is more than 100 times the clean loss.

    Args:
        radius_field: Name of the field with the ball's radius.
        adversarial_weight: Weight of the adversarial loss.
    """

    def __init__(self, radius_field: str, adversarial_weight: float = 1.0):
        self._adversarial_weight = adversarial_weight
        self._remedies = {
            "penalty": "lower `regularizer_lambda`, or set `lambda_mode` to relative",
            "adversarial loss": f"lower `{radius_field}`",
        }
        self._warned: set[str] = set()

    def check(self, metrics: dict[str, float], weight: float) -> None:
        """
        Compare the terms of one optimizer step.

        Args:
            metrics: Means over processes. Metrics may be absent.
            weight: Weight of the penalty in force.
        """
        clean = max(abs(metrics.get("aajr/clean_loss", 0.0)), _LEAST_LOSS)
        terms = {
            "penalty": weight * metrics.get("aajr/penalty", 0.0),
            "adversarial loss": self._adversarial_weight * abs(metrics.get("aajr/adversarial_loss", 0.0)),
        }
        for name, term in terms.items():
            if term > _TOO_LARGE * clean and name not in self._warned:
                self._warned.add(name)
                shown = f"{clean:.2g}{' or less' if clean == _LEAST_LOSS else ''}"
                logger.warning(
                    f"The {name} ({term:,.3g}) is {term / clean:,.0f} times the clean loss ({shown}), so training "
                    f"hardly depends on the task: {self._remedies[name]}."
                )
