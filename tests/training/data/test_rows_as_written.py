"""
Rows as people write them: what the trainer reads is the conversation by hand in the chat template, or an error that
names what is lost.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.row_reader import RowReader
from aajr_hf.training.data.template import Template
from tests.support.conversations import as_written, conversations
from tests.support.templates import CHATML, MISTRAL, SMOLLM3, shipped
from tests.training.data.test_chat_spans import with_template

# Whether a template writes several calls of one turn.
PARALLEL = {
    **dict.fromkeys(("qwen2_5", "qwen3", "qwen3_5_think", "glm4moe", "gemma4", "lfm2_v2", "nemotron_3_nano"), True),
    **dict.fromkeys(("llama3_1", "llama3_2", "gptoss"), False),
}
OWN = {"mistral": MISTRAL, "smollm3": SMOLLM3}
TEMPLATES = {name: Template(with_template(OWN.get(name) or shipped(name))) for name in (*PARALLEL, *OWN)}


def read(template, row):
    found = RowReader(template, ("messages",))(row, 0)
    return found, json.loads(found["aajr_report"])


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_what_a_row_says_is_what_is_trained_on(name, data):
    template = TEMPLATES[name]
    row = data.draw(conversations(parallel=PARALLEL.get(name, True)))
    by_hand = template.processing_class.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
    found, report = read(template, data.draw(as_written(row)))
    assert "error" not in report, report
    assert (
        template.processing_class.apply_chat_template(found["messages"], tools=found.get("tools"), tokenize=False)
        == by_hand
    )


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_keys_that_nothing_reads_are_named_and_change_nothing(data):
    row = data.draw(as_written(data.draw(conversations())))
    more = json.loads(json.dumps(row))
    wanted = set()
    for message in more["messages"]:
        calls = message.get("tool_calls")
        message["tool_calls"] = calls = json.loads(calls) if isinstance(calls, str) else calls
        for call in [*(calls or []), *filter(None, [message.get("function_call")])]:
            if data.draw(st.booleans()):
                data.draw(st.sampled_from([call, call.get("function", call)]))["index"] = 0
                wanted.add("`index` of calls")
        for part in message["content"] if isinstance(message.get("content"), list) else []:
            if data.draw(st.booleans()):
                part |= {"cache_control": {"type": "ephemeral"}}
                wanted.add("`cache_control` of parts of `content`")
    unread = set()
    assert canonical_row(more, unread) == canonical_row(row) and unread == wanted


def question(**more):
    return {"role": "user", "content": "7 apples?"} | more


def calling(arguments, **more):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]} | more


ANSWER = {"role": "assistant", "content": "7 apples?"}
RESULT = {"role": "tool", "name": "f", "content": "7 apples?"}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "Does it.", "parameters": {"type": "object", "properties": {}}},
}

# One part of a template that is left out, a row that needs it, and what the error names.
WHOLE = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}<{{ m.role }} {{ m.name }}>"
    "{{ m.reasoning_content }}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
LOST = {
    "{{ m.content }}": ([question(), ANSWER], "`messages`[0] (user): the `content` '7 apples?'"),
    "{{ c.function.name }}": ([question(), calling({})], "`messages`[1] (assistant): the name of `tool_calls`[0] 'f'"),
    "{{ c.function.arguments | tojson }}": ([question(), calling({"n": 7})], "`messages`[1]: the argument 'n'"),
    "{{ t.function.name }}": ([question(), ANSWER], "the name of `tools`[0] 'f'"),
    "{{ m.name }}": ([question(name="Ann"), ANSWER], "`messages`[0] (user): the `name` 'Ann'"),
    "{{ m.reasoning_content }}": ([question(), ANSWER | {"reasoning_content": "7"}], "the `reasoning_content` '7'"),
}


@pytest.mark.parametrize("part", LOST)
def test_what_a_template_leaves_out_is_named_even_if_the_same_words_are_elsewhere(part):
    messages, named = LOST[part]
    row = {"messages": messages, "tools": [TOOL]}
    assert "error" not in read(Template(with_template(WHOLE)), row)[1]
    for replacement in ("", "{{ 'zq0x' }}"):
        report = read(Template(with_template(WHOLE.replace(part, replacement))), row)[1]
        assert named in report["error"] and "the chat template" in report["error"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("{{ m.content | upper }}", "the `content` '7 apples?' would not be trained on as it is"),
        ("{{ m.content[:4] }}", "the `content` '7 apples?'"),
        ("{{ messages[-1].content if loop.first else m.content }}", "the `content`"),
        ("{{ messages[loop.revindex0].content }}", "`messages`"),
    ],
)
def test_what_a_template_changes_or_moves_is_named(change, named):
    template = Template(with_template(WHOLE.replace("{{ m.content }}", change)))
    row = {"messages": [question(), {"role": "assistant", "content": "9 pears"}, question(), ANSWER]}
    assert named in read(template, row)[1]["error"]


def test_templates_that_look_at_what_is_said_lose_nothing():
    """Their rendering changes with marks, and the parts are searched for in their order."""
    template = Template(
        with_template("{% for m in messages %}{{ m.role }}{{ m.content | length }}{{ m.content }}{% endfor %}")
    )
    assert "error" not in read(template, {"messages": [question(), ANSWER]})[1]
    cut = Template(with_template(template.source.replace("{{ m.content }}", "{{ m.content[1:] }}")))
    assert "`messages`[0] (user): the `content`" in read(cut, {"messages": [question(), ANSWER]})[1]["error"]


@pytest.mark.parametrize(
    ("source", "is_text"),
    [
        ("{{ c.function.arguments | tojson }}", False),
        ("{{ '```' + c.function.arguments }}", True),
        ("{{ c.function.arguments }}", True),
        ("{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}", False),
        ("{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}", False),
    ],
)
def test_a_template_gets_arguments_in_the_form_that_it_writes(source, is_text):
    template = Template(with_template(WHOLE.replace("{{ c.function.arguments | tojson }}", source)))
    for arguments in ({"n": "é 7"}, json.dumps({"n": "é 7"})):
        found, report = read(template, {"messages": [question(), calling(arguments)]})
        given = found["messages"][1]["tool_calls"][0]["function"]["arguments"]
        assert "error" not in report and given == ('{"n": "é 7"}' if is_text else {"n": "é 7"})


def test_a_developer_is_the_system_of_templates_that_have_none():
    row = {"messages": [{"role": "developer", "content": "Be short."}, question(), ANSWER]}
    roles = {name: read(TEMPLATES[name], row)[0]["messages"][0]["role"] for name in ("qwen2_5", "gptoss")}
    assert roles == {"qwen2_5": "system", "gptoss": "developer"}
    assert "is refused by" in read(Template(with_template(shipped("gemma"))), row)[1]["error"]


def test_thoughts_of_earlier_turns_may_be_left_out_and_others_not():
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    for row in ([question(), thought, question(), thought], [question(), ANSWER | {"reasoning_content": "hm"}] * 2):
        found, report = read(TEMPLATES["qwen3"], {"messages": row})
        assert "error" not in report and report["left_out"]
    assert not read(TEMPLATES["qwen3"], {"messages": [question(), thought]})[1]["left_out"]
    distilled = Template(with_template(shipped("deepseek_r1_distill")))
    error = read(distilled, {"messages": [question(), thought]})[1]["error"]
    assert "`messages`[1] (assistant): the reasoning in `content` 'hm'" in error


def test_results_belong_to_the_calls_that_they_name():
    two = calling({}) | {"tool_calls": [calling({})["tool_calls"][0] | {"id": name} for name in ("c1", "c2")]}
    results = [RESULT | {"tool_call_id": name} for name in ("c1", "c2")]
    template = TEMPLATES["qwen3"]
    assert "error" not in read(template, {"messages": [question(), two, *results, ANSWER]})[1]
    swapped = read(template, {"messages": [question(), two, *results[::-1], ANSWER]})[1]["error"]
    assert "`messages`[2] has the `tool_call_id` 'c2', but the chat template does not write it" in swapped
    unknown = read(template, {"messages": [question(), two, RESULT | {"tool_call_id": "c3"}]})[1]["error"]
    assert "`tool_call_id` 'c3', which is none of the open calls before it (c1, c2)" in unknown
    other = read(template, {"messages": [question(), two, RESULT | {"name": "g"}, ANSWER]})[1]["error"]
    assert "has the `name` 'g', but is the result of f" in other


def test_fields_that_nothing_reads_are_reported():
    row = {"messages": [question(mood="glad", name=None), ANSWER | {"refusal": None, "train": False}]}
    assert read(TEMPLATES["qwen3"], row)[1]["unread"] == ["`mood` of messages", "`train` of messages"]
    template = Template(with_template(CHATML.replace("message.role", "message.role + (message.mood or '')")))
    assert read(template, row)[1]["unread"] == ["`train` of messages"]


@given(row=conversations(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_canonical_form_of_a_canonical_row_is_the_row(row, data):
    once = canonical_row(data.draw(as_written(row)))
    assert canonical_row(once) == once and once["messages"] == row["messages"]
    assert (once.get("tools") or None) == row.get("tools")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (calling("{"), "the arguments of f in `messages`[1] must be JSON"),
        (calling("[1]"), "calls f with a list: `arguments` must be an object"),
        (calling("NaN"), "must be JSON"),
        (ANSWER | {"weight": 0.5}, "`messages`[1] has the `weight` 0.5"),
        (ANSWER | {"weight": True}, "`messages`[1] has the `weight` True"),
        (question(weight=1), "only messages of the assistant have one"),
        (
            question(content=[{"type": "image_url", "image_url": "x"}]),
            "a part of the type 'image_url' as `content`[0]",
        ),
        (question(content=[{"type": "text"}]), "a part without a `text`"),
        (question(tool_calls=calling({})["tool_calls"]), "only the assistant calls tools"),
        (calling({}, function_call={"name": "f", "arguments": ""}), "both `function_call` and `tool_calls`"),
        (ANSWER | {"name": 5}, "a text as its `name`"),
        ({"role": "critic", "content": "a"}, "has the role 'critic'"),
        (ANSWER | {"weight": 0}, "has no turn of the assistant"),
    ],
)
def test_what_cannot_be_read_is_named(message, named):
    assert named in read(TEMPLATES["qwen3"], {"messages": [question(), message]})[1]["error"]


def test_a_column_for_the_system_is_the_first_message():
    row = {"messages": [question(), ANSWER], "system": "Be short."}
    assert canonical_row(row)["messages"][0] == {"role": "system", "content": "Be short."}
    assert canonical_row(canonical_row(row)) == canonical_row(row)
    with pytest.raises(ValueError, match="`system` that differs"):
        canonical_row(row | {"messages": [{"role": "system", "content": "Be long."}, question(), ANSWER]})
    with pytest.raises(ValueError, match="`system` beside a `prompt`"):
        canonical_row({"prompt": "a", "completion": "b", "system": "c"})


@pytest.mark.parametrize(
    ("template", "name", "value"),
    [("lfm2_v2", "f", "it's a 'b' \\ c\nd"), ("muse_glimmer", "shop.open", "it's")],
)
def test_templates_that_quote_texts_and_split_names_lose_nothing(template, name, value):
    call = calling({"n": value})["tool_calls"][0]["function"] | {"name": name}
    row = {
        "messages": [question(), calling({}, tool_calls=[{"function": call}])],
        "tools": [TOOL["function"] | {"name": name}],
    }
    assert "error" not in read(Template(with_template(shipped(template))), row)[1]
