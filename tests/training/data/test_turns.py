"""What is no action inside what is trained on: turns of the weight 0, and what others say between turns."""

from __future__ import annotations

import pytest

from aajr_hf.training.data.row_reader import RowReader
from tests.training.data.test_rows_as_written import RESULT, TEMPLATES, TOOL, calling, question

SAID = ["first", "second", "third"]


def kept(template, row, columns, **settings):
    """The text, and those of its tokens that `action_mask` keeps."""
    found = RowReader(template, columns, **settings)(row, 0)
    assert found["action_mask"] is not None, found["aajr_report"]
    messages = [message for name in columns for message in found[name]]
    tokenizer = template.processing_class
    ids = tokenizer.apply_chat_template(messages, tools=found.get("tools"), return_dict=False)
    return tokenizer.decode(ids), tokenizer.decode(
        [i for i, bit in zip(ids, found["action_mask"], strict=True) if bit]
    )


def turn(number, **more):
    return {"role": "assistant", "content": SAID[number]} | more


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_turns_of_the_assistant_are_actions_of_a_completion(name):
    template = TEMPLATES[name]
    said = [RESULT | {"content": "sunny"}, question(content="and then?")]
    completion = [calling({"town": "here"}), said[0], turn(0), said[1], turn(1)]
    row = {"prompt": [question()], "completion": completion, "tools": [TOOL]}
    text, actions = kept(template, row, ("prompt", "completion"), only_completions=True)
    for message in said:
        assert message["content"] in text and message["content"] not in actions
    assert all(word in actions for word in ("7 apples?", "here", *SAID[:2]))


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "gemma4", "mistral", "smollm3", "lfm2_v2"])
def test_a_turn_of_the_weight_0_is_no_action_and_all_others_are(name):
    template = TEMPLATES[name]
    for chosen in range(3):
        turns = [turn(number, weight=0 if number == chosen else 1) for number in range(3)]
        messages = [message for answer in turns for message in (question(), answer)]
        text, actions = kept(template, {"messages": messages}, ("messages",))
        assert SAID[chosen] in text and SAID[chosen] not in actions
        assert actions.count("7 apples?") == 3 and all(word in actions for word in SAID if word != SAID[chosen])


def test_markup_belongs_to_the_turn_that_it_ends():
    completion = [turn(0), question(), turn(1)]
    row = {"prompt": [question()], "completion": completion}
    actions = kept(TEMPLATES["qwen3"], row, ("prompt", "completion"), only_completions=True)[1]
    assert actions.endswith("first<|im_end|>\n<think>\n\n</think>\n\nsecond<|im_end|>\n")
    weighted = kept(
        TEMPLATES["qwen2_5"], {"messages": [question(), turn(0, weight=0), question(), turn(1)]}, ("messages",)
    )[1]
    assert weighted.endswith(
        "7 apples?<|im_end|>\n<|im_start|>user\n7 apples?<|im_end|>\n<|im_start|>assistant\nsecond<|im_end|>\n"
    )
