"""What happens to the rows of a stream is counted, however many processes read it, and said at the end of training."""

from __future__ import annotations

import logging

import pytest
from accelerate import Accelerator
from datasets import IterableDataset
from torch.utils.data import DataLoader

from aajr_hf.training.data.streams import StreamCount, StreamTotals


def numbers(shards):
    for shard in shards:
        yield from ({"number": number} for number in range(shard, shard + 10))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_rows_of_all_workers_are_counted(workers, caplog):
    count = StreamCount("train")
    totals = StreamTotals(count, Accelerator(cpu=True))

    def read(row):
        count.add(rows=1, invalid=row["number"] % 2)
        return row

    data = IterableDataset.from_generator(numbers, gen_kwargs={"shards": [0, 10, 20]}).map(read)
    next(iter(data))  # as TRL looks at the columns
    totals.on_train_begin(None, None, None)
    for _ in range(2):
        assert len(list(DataLoader(data, batch_size=None, num_workers=workers))) == 30
    with caplog.at_level(logging.WARNING, logger="aajr_hf"):
        totals.on_train_end(None, None, None)
    assert [record.getMessage() for record in caplog.records] == [
        "Of the train data, as far as they were read: 30 of 60 rows were invalid and were left out."
    ]


def test_the_first_of_a_kind_is_told_once(caplog):
    count = StreamCount("train")
    for number in (3, 4):
        count.tell("invalid", f"bad: {count.place('row', number)}")
        count.tell("cut", "cut")
    assert [record.getMessage() for record in caplog.records] == ["bad: row 3 of the train data", "cut"]
