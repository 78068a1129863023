"""Messages between agents: the sender's own words, then what the reader would have read of its peers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aajr_hf.environments import WORLDS, expert_rows, held_out_rows
from aajr_hf.environments.messages import message_row, own_words, sent_rows, with_messages


def row(text: str) -> dict:
    return {"prompt": [{"role": "user", "content": text}], "completion": [text]}


def test_a_message_is_the_senders_own_words_and_what_the_reader_would_have_read():
    sender = row("capacity 5 demands 1 2 need 3 prefer b owe 1")
    reader = row("capacity 5 demands 3 2 need 1 prefer a owe 2")
    found = message_row(WORLDS["congestion"], sender, reader)
    assert found["message"] == "need 3 prefer b owe 1 capacity 5 demands 3 2"
    assert found["prompt"][0]["content"] == found["message"] + " need 1 prefer a owe 2"
    assert found["completion"] == reader["completion"] and reader["prompt"][0]["content"].startswith("capacity")


def test_own_words_are_those_that_no_peer_says():
    assert own_words(WORLDS["congestion"]) == ["need", "prefer", "owe"]
    assert own_words(WORLDS["commons"]) == ["ground", "warden"]
    with pytest.raises(ValueError, match="In hide_and_seek, no words of an observation come from peers"):
        own_words(WORLDS["hide_and_seek"])


def test_each_agent_hears_from_the_one_before_it():
    rows = [row(f"capacity 5 demands 1 2 need {i} prefer a owe 1") for i in range(3)]
    messages = [found["message"] for found in with_messages(WORLDS["congestion"], rows)]
    assert [message[:6] for message in messages] == ["need 2", "need 0", "need 1"]


@pytest.mark.parametrize(("all_links", "readers"), [(False, 1), (True, 3)])
def test_a_sender_says_its_own_words_on_each_of_its_links(all_links, readers):
    rng = np.random.default_rng(0)
    groups = list(itertools.islice(sent_rows(WORLDS["congestion"], rng, 4, all_links=all_links), 8))
    for group in groups:
        assert len(group) == readers
        assert len({found["message"].split(" capacity")[0] for found in group}) == 1
    # Readers are others than the sender: their own words are not those of the message.
    senders = [group[0]["message"].split(" capacity")[0] for group in groups[:4]]
    heard = [found["prompt"][0]["content"].removeprefix(found["message"] + " ") for found in groups[0]]
    assert heard == senders[1 : 1 + readers]


def test_rows_with_messages_have_the_right_answers_of_those_without():
    plain, told = (expert_rows("commons", 13, seed=1, agents=5, messages=messages) for messages in (False, True))
    assert [found["completion"] for found in told] == [found["completion"] for found in plain]
    contents = [
        (one["prompt"][0]["content"], two["prompt"][0]["content"]) for one, two in zip(plain, told, strict=True)
    ]
    assert all(long.endswith(short) and len(long) > len(short) for short, long in contents)
    assert all("message" in found for found in held_out_rows("congestion", 2, seed=0, messages=True))
