"""The warning if one term of the loss drowns the others."""

from __future__ import annotations

import logging

import pytest

from aajr_hf.training.runs.balance import LossBalance
from tests.support.tiny import dataset, trainer


@pytest.mark.parametrize(
    ("clean", "adversarial", "penalty", "weight", "said"),
    [
        (0.5, 1.0, 40.0, 1.0, []),
        (0.5, 1.0, 60.0, 1.0, ["penalty (60) is 120 times the clean loss (0.5)"]),
        (0.5, 60.0, 60.0, 0.1, ["adversarial loss (60) is 120 times"]),
        (0.5, 60.0, 60.0, 1.0, ["penalty (60)", "adversarial loss (60)"]),
        # A trained agent has almost no clean loss: an adversarial loss of some nats is no mistake then.
        (1e-4, 5.0, 1.0, 1.0, []),
        (1e-4, 11.0, 1.0, 1.0, ["adversarial loss (11) is 110 times the clean loss (0.1 or less)"]),
    ],
)
def test_a_term_of_more_than_a_hundred_times_the_clean_loss_is_named_once(
    clean, adversarial, penalty, weight, said, caplog
):
    balance = LossBalance("epsilon")
    values = {"aajr/clean_loss": clean, "aajr/adversarial_loss": adversarial, "aajr/penalty": penalty}
    for _ in range(3):
        balance.check(values, weight)
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert words in message
        remedy = (
            "lower `regularizer_lambda`, or set `lambda_mode` to relative."
            if "penalty" in message
            else "lower `epsilon`."
        )
        assert message.endswith(remedy)


def test_an_adversarial_loss_counts_with_its_weight(caplog):
    balance = LossBalance("epsilon", adversarial_weight=0.5)
    balance.check({"aajr/clean_loss": 0.5, "aajr/adversarial_loss": 60.0}, 1.0)
    assert not caplog.messages
    balance.check({"aajr/clean_loss": 0.5, "aajr/adversarial_loss": 110.0}, 1.0)
    assert "adversarial loss (55) is 110 times" in caplog.messages[0]


@pytest.mark.slow
def test_training_says_that_lambda_is_far_too_large(tmp_path, caplog):
    settings = {"aajr_warmup_ratio": 0.0, "learning_rate": 1e-6, "max_steps": 3}
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, data=dataset(8), regularizer_lambda=1.0, **settings).train()
    warned = [message for message in caplog.messages if "times the clean loss" in message]
    assert len(warned) == 1 and "The penalty" in warned[0] and "lower `regularizer_lambda`" in warned[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, data=dataset(8), regularizer_lambda=1e-3, **settings).train()
    assert not [message for message in caplog.messages if "times the clean loss" in message]
