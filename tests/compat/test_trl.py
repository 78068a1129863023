"""What TRL's trainers record."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest

from aajr_hf._compat.trl import count_tokens, recorded, recorded_apart


def trainer(tensor_parallel=1):
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return SimpleNamespace(_metrics=metrics, _total_train_tokens=5, get_tp_size=lambda: tensor_parallel)


@pytest.mark.parametrize(("tensor_parallel", "total"), [(1, 13), (2, 9)])
def test_tokens_are_counted_over_all_steps(tensor_parallel, total):
    run = trainer(tensor_parallel)
    count_tokens(run, 8)
    assert run._total_train_tokens == total and recorded(run) == {"num_tokens": [total]}


def test_what_is_recorded_apart_leaves_nothing_also_after_an_error():
    run = trainer()
    recorded(run)["loss"].append(1.0)
    with pytest.raises(ValueError), recorded_apart(run) as found:
        recorded(run)["loss"].append(2.0)
        count_tokens(run, 8)
        raise ValueError
    assert found == {"loss": [2.0], "num_tokens": [13]}
    assert recorded(run) == {"loss": [1.0]} and run._total_train_tokens == 5
