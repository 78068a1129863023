"""Triggers: where they stand, and the bank that keeps them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.training.data.roles import OBSERVED_ROLES
from aajr_hf.training.data.triggers import Trigger, add_to_bank, read_triggers, with_trigger

ROLES = OBSERVED_ROLES["observation"]
ROLE = st.sampled_from(["system", "user", "assistant", "tool"])


def message(role: str, content: str = "said") -> dict:
    return {"role": role, "content": content}


@given(st.lists(ROLE, min_size=1, max_size=6))
def test_a_trigger_stands_at_the_end_of_the_last_word_of_others_before_the_answer(roles):
    messages = [message(role, f"text {number}") for number, role in enumerate(roles)]
    found = with_trigger(messages, "now", ROLES)
    before = roles[:-1] if roles[-1] == "assistant" else roles
    places = [number for number, role in enumerate(before) if role in ("user", "tool")]
    if not places:
        assert found is None
        return
    assert found[places[-1]]["content"] == f"text {places[-1]} now"
    assert [one for number, one in enumerate(found) if number != places[-1]] == [
        one for number, one in enumerate(messages) if number != places[-1]
    ]
    assert [one["content"] for one in messages] == [f"text {number}" for number in range(len(roles))]


def test_spaces_are_not_doubled():
    assert with_trigger([message("user", "go \n")], "now", ROLES)[0]["content"] == "go now"
    assert with_trigger([message("tool", "")], "now", ROLES)[0]["content"] == "now"


def test_a_bank_keeps_what_it_holds(tmp_path):
    file = tmp_path / "new" / "bank.json"
    earlier = Trigger(
        "owe 3", agent="first", data="congestion", tokens=2, nominal=100.0, left=40.0, random=90.0, examples=8
    )
    assert add_to_bank(file, [earlier]) == 1
    assert add_to_bank(file, [Trigger("zürich", agent="second")]) == 2
    assert read_triggers(file) == [earlier, Trigger("zürich", agent="second")]
    assert [path.name for path in file.parent.iterdir()] == ["bank.json"]
    (written := tmp_path / "own.json").write_text('{"triggers": [{"text": "by hand"}]}')
    assert read_triggers(written) == [Trigger("by hand")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a list `triggers`"),
        ('{"triggers": []}', "at least one trigger"),
        ('{"triggers": [{"text": "a"}, {"text": " "}]}', "trigger 1 must be an object with a `text`"),
        ('{"triggers": [{"text": "a", "words": 1}]}', "unknown field 'words'"),
    ],
)
def test_what_is_no_bank_is_refused_and_stays(tmp_path, text, words):
    (file := tmp_path / "bank.json").write_text(text)
    for use in (lambda: read_triggers(file), lambda: add_to_bank(file, [Trigger("now")])):
        with pytest.raises(ValueError, match=words):
            use()
    assert file.read_text() == text
    with pytest.raises(ValueError, match="cannot be read"):
        read_triggers(tmp_path / "missing.json")
