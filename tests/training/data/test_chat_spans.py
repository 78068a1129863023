"""Which tokens users and tools said, under the chat templates of several families."""

from __future__ import annotations

import copy
import json

import pytest
from datasets import Dataset
from transformers import ByT5Tokenizer

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.chat_spans import chat_renderer, said_by, spans_mask
from aajr_hf.training.data.collation import agent_columns
from aajr_hf.training.data.roles import OBSERVED_ROLES
from aajr_hf.training.models.base_agent import train_tokenizer
from tests.support.templates import TEMPLATES, WITH_TOOLS, shipped
from tests.support.tiny import TOKENIZER, tiny_model, trainer, trainer_arguments

# One token a byte, so that no token reaches over the end of what was said.
BYTES = train_tokenizer([""])
TOOLS = [{"type": "function", "function": {"name": "stock", "description": "user", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "stock", "arguments": {"of": "user"}}}

# Words of the markup and of each other, white space around and within, and characters that JSON escapes.
SAID = ["user", "  assistant\n\nuser ", 'he said "tool" \\ é\n日本', "assistant"]
CONVERSATION = [
    {"role": "system", "content": "user 7 apples"},
    {"role": "user", "content": SAID[0]},
    {"role": "assistant", "content": "user"},
    {"role": "user", "content": SAID[1]},
]
WITH_A_TOOL = [
    *CONVERSATION,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "stock", "content": SAID[2]},
    {"role": "assistant", "content": "7 apples user"},
    {"role": "user", "content": SAID[3]},
    {"role": "assistant", "content": "7 apples"},
]


def with_template(template, tokenizer=BYTES):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template, tokenizer.bos_token = template, "<s>"
    return tokenizer


def said(tokenizer, messages, perturbed_tokens, **columns):
    render = chat_renderer(tokenizer, columns)
    return said_by(render, messages, OBSERVED_ROLES[perturbed_tokens])


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_users_said_is_found_and_nothing_else(name):
    messages = [*CONVERSATION, {"role": "assistant", "content": "user"}]
    text, spans = said(with_template(TEMPLATES[name]), messages, "user")
    assert [text[begin:end] for begin, end in spans] == [SAID[0], SAID[1].strip()]
    # The user's words, and not the same ones of the markup, the system or the agent before them.
    assert text == with_template(TEMPLATES[name]).apply_chat_template(messages, tokenize=False)
    for begin, _ in spans:
        assert not text[:begin].endswith(("start_header_id|>", "im_start|>", "start_of_turn>", "<|"))


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_what_tools_said_is_found_as_the_template_writes_it(name):
    tokenizer = with_template(TEMPLATES[name])
    text, spans = said(tokenizer, WITH_A_TOOL, "tool", tools=json.dumps(TOOLS))
    (begin, end) = spans[0]
    assert len(spans) == 1 and text[begin:end] in (SAID[2], json.dumps(SAID[2], ensure_ascii=False)[1:-1])
    users = said(tokenizer, WITH_A_TOOL, "user", tools=TOOLS)[1]
    both = said(tokenizer, WITH_A_TOOL, "observation", tools=TOOLS)[1]
    assert sorted(both) == sorted(users + spans) and len(users) == 3


def test_messages_may_have_parts_and_tools_of_another_name():
    tokenizer = with_template(shipped("gemma3"))
    parts = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]
    text, spans = said(tokenizer, parts, "observation")
    assert [text[begin:end] for begin, end in spans] == ["one", "two"]
    for role in ("ipython", "environment", "function"):
        messages = [{"role": "user", "content": "go"}, {"role": role, "content": "went"}]
        text, spans = said(with_template(TEMPLATES["chatml"]), messages, "tool")
        assert [text[begin:end] for begin, end in spans] == ["went"]


def test_what_the_template_leaves_out_is_not_looked_for_elsewhere():
    template = "{{ 'user ' }}{% for m in messages %}{% if m.role != 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    assert said(with_template(template), CONVERSATION, "user")[1] == []


@pytest.mark.parametrize("content", ["{{ m.content | upper }}", "{{ 'bye' if m.content == 'user' else m.content }}"])
def test_a_template_that_reads_what_it_renders_is_found_out(content):
    template = f"{{% for m in messages %}}{content}{{% endfor %}}"
    messages = [{"role": "user", "content": "user"}]
    if "upper" in content:  # which changes no mark: what it wrote is what was said
        text, spans = said(with_template(template), messages, "user")
        assert [text[begin:end] for begin, end in spans] == ["USER"]
        return
    with pytest.raises(ValueError, match="whatever they say.*'user'"):
        said(with_template(template), messages, "user")


def test_a_template_that_is_never_the_same_is_found_out_where_nobody_spoke():
    template = "{{ range(0, 10**4) | random }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="the same way each time"):
        said(with_template(template), [{"role": "user", "content": "user"}], "tool")


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match="needs a fast tokenizer.*ByT5Tokenizer is not fast"):
        spans_mask(ByT5Tokenizer(), "user", [(0, 4)])


def test_tokens_that_reach_into_the_markup_are_left_out():
    tokenizer = with_template("{% for m in messages %}{{ '>' + m.content + '<' }}{% endfor %}", TOKENIZER)
    text, spans = said(tokenizer, [{"role": "user", "content": "capacity 7"}], "user")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = spans_mask(tokenizer, text, spans)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "capacity 7"


def test_columns_of_a_conversation_in_any_of_the_formats():
    tokenizer = with_template(TEMPLATES["qwen3"])
    whole = agent_columns({"messages": WITH_A_TOOL, "tools": TOOLS}, 0, tokenizer, "observation", False)
    halves = {"prompt": WITH_A_TOOL[:4], "completion": WITH_A_TOOL[4:], "tools": json.dumps(TOOLS)}
    assert agent_columns(halves, 0, tokenizer, "observation", False) == whole
    chatml = with_template(TEMPLATES["chatml"])
    turns = {"conversations": [{"from": m["role"], "value": m["content"]} for m in CONVERSATION]}
    columns = agent_columns(turns, 0, chatml, "user", False)
    assert columns == agent_columns({"messages": CONVERSATION}, 0, chatml, "user", False)
    assert turns["conversations"][0].keys() == {"from", "value"}  # as it was given


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["prompt", "observation", "user", "tool"])
def test_every_assistant_turn_is_an_action_and_what_precedes_it_may_be_perturbed(tmp_path, choice):
    tokenizer = with_template(TEMPLATES["qwen2_5"])
    rows = Dataset.from_list([{"messages": json.dumps(WITH_A_TOOL + [{"role": "user", "content": "never answered"}])}])
    rows = rows.map(lambda row: {"messages": json.loads(row["messages"]), "tools": json.dumps(TOOLS)})
    run = AAJRTrainer(
        tiny_model(vocab_size=len(tokenizer)),
        AAJRConfig(**trainer_arguments(tmp_path, assistant_only_loss=True, perturbed_tokens=choice)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    inputs = run.data_collator([run.train_dataset[0]])
    batch = AgentBatch.from_inputs(inputs, choice)

    def decoded(mask):
        return tokenizer.decode(batch.input_ids[mask])

    actions = decoded(inputs["labels"] != -100)
    assert actions.count("<|im_end|>") == 4 and "stock" in actions and actions.endswith("7 apples<|im_end|>\n")
    perturbed = decoded(batch.perturbable)
    expected = {
        "observation": SAID[0] + SAID[1].strip() + SAID[2] + SAID[3],
        "user": SAID[0] + SAID[1].strip() + SAID[3],
        "tool": SAID[2],
    }
    if choice in expected:
        assert perturbed == expected[choice]
    else:
        assert "never answered" not in perturbed and perturbed.startswith("<|im_start|>system")
        assert not bool((batch.perturbable & (inputs["labels"] != -100)).any())
    run.train()
    assert run.state.log_history[0]["aajr/penalty"] > 0


def test_tokens_have_no_roles(tmp_path):
    tokens = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}])
    with pytest.raises(ValueError, match="`perturbed_tokens=user` needs messages, but the examples are tokens"):
        trainer(tmp_path, data=tokens, perturbed_tokens="user")


def test_a_conversation_of_actions_alone_says_what_makes_the_rest_observations(tmp_path):
    rows = Dataset.from_list([{"messages": CONVERSATION[:3]}])
    with pytest.raises(ValueError, match="every token is an action.*`assistant_only_loss`.*`completion_only_loss`"):
        trainer(tmp_path, data=rows, perturbed_tokens="user")


def test_a_template_that_is_missing_is_named(tmp_path):
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template.*`chat_template_path`"):
        AAJRTrainer(
            tiny_model(vocab_size=len(tokenizer)),
            AAJRConfig(**trainer_arguments(tmp_path)),
            train_dataset=Dataset.from_list([{"messages": CONVERSATION[:3]}]),
            processing_class=tokenizer,
        )
