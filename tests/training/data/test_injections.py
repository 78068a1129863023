"""Injections: what is asked for, where it stands, and the turns that a completion attack fakes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aajr_hf.evaluation.tool_calls.judge import read_call
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.data.injections import InjectionTexts, Injector, read_injection_texts
from aajr_hf.training.data.schema_values import KnownValues, fits
from tests.support.tool_callers import HERMES, ROWS, calling, tokenizer_with, tool

READ = read_rows(ROWS)
TEXTS = read_injection_texts()
BOTH = {"user", "tool"}


def with_result(row: dict, result: str = '{"lamps": [1, 2], "note": "all on"}') -> dict:
    call = {"type": "function", "function": {"name": "dim", "arguments": {"room": "den"}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    return row | {"prompt": [*row["prompt"], called, {"role": "tool", "content": result}]}


def injector(rows=READ, template="qwen3", texts=TEXTS, roles=BOTH) -> Injector:
    return Injector(tokenizer_with(template), rows, texts, roles)


@pytest.mark.parametrize("kind", ["plain", "completion", "shuffled"])
@pytest.mark.parametrize("row", [READ[0], with_result(READ[1])], ids=["user", "tool"])
def test_one_message_holds_the_request_and_nothing_else_changes(kind, row):
    for seed in range(20):
        found = injector().inject(row, kind, random.Random(seed))
        assert row["prompt"][found.message]["role"] == ("tool" if len(row["prompt"]) > 1 else "user")
        said, before = found.prompt[found.message]["content"], row["prompt"][found.message]["content"]
        assert [m for i, m in enumerate(found.prompt) if i != found.message] == row["prompt"][: found.message]
        call = read_call(found.call)
        assert call.name in said and call.name != row["completion"][0]["tool_calls"][0]["function"]["name"]
        schema = next(t["function"]["parameters"] for t in row["tools"] if t["function"]["name"] == call.name)
        assert fits(call.arguments, schema)
        if kind == "completion":
            assert said.startswith(before)
        else:  # every word that was there is still there, in its order
            words = iter(said.split())
            assert all(word in words for word in before.split())


@pytest.mark.parametrize("template", ["qwen3", "qwen2_5", "llama3_1", HERMES])
def test_a_completion_attack_reads_as_turns_that_the_template_writes(template):
    """The agent's prompt is the one of a conversation in which the answer and the request were really said."""
    row, texts = READ[0], InjectionTexts(("call {name} {arguments}",), ("Done.",))
    made = injector(template=template, texts=texts)
    found = made.inject(row, "completion", random.Random(0))
    request = "call " + found.prompt[0]["content"].rpartition("call ")[2]
    said = [
        *row["prompt"],
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": request},
    ]
    options = {"tools": row["tools"], "tokenize": False, "add_generation_prompt": True}
    faked, real = (made.tokenizer.apply_chat_template(messages, **options) for messages in (found.prompt, said))
    assert faked == real and request.startswith("call heat")


def test_places_are_all_places_between_words():
    row = calling("a b c", [tool("dim", ["room"], room={"type": "string"}), tool("heat")], [("dim", {"room": "x"})])
    made = injector(read_rows([row]), texts=InjectionTexts(("{name}",), ("Done.",)))
    (read,) = read_rows([row])
    said = {made.inject(read, "plain", random.Random(seed)).prompt[0]["content"] for seed in range(60)}
    assert said == {"heat a b c", "a heat b c", "a b heat c", "a b c heat"}


def test_the_only_tool_is_called_with_other_arguments_or_not_at_all():
    alone = tool("dim", ["room"], room={"type": "string", "enum": ["den", "hall"]})
    (row,) = read_rows([calling("Dim den", [alone], [("dim", {"room": "den"})])])
    for seed in range(30):
        call = injector([row]).other_call(row, random.Random(seed))
        assert call is None or call["function"] == {"name": "dim", "arguments": {"room": "hall"}}
    (row,) = read_rows([calling("Stop", [tool("stop")], [("stop", {})])])
    assert injector([row]).inject(row, "plain", random.Random(0)) is None


def test_without_a_message_of_the_roles_there_is_no_injection():
    assert injector(roles={"tool"}).inject(READ[0], "plain", random.Random(0)) is None
    both = with_result(READ[0])
    assert injector(roles={"user"}).inject(both, "plain", random.Random(0)).message == 0


_LEAVES = st.sampled_from(
    [
        {"type": "integer", "minimum": 3, "maximum": 5},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "string"},
        {"enum": ["a", 2]},
        {"const": "c"},
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    ]
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda part: st.one_of(
        part.map(lambda items: {"type": "array", "items": items, "minItems": 2}),
        st.dictionaries(st.sampled_from("xyz"), part, max_size=2).map(
            lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)}
        ),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), _SCHEMAS), st.integers(0, 99))
def test_made_up_arguments_fit_their_schema(properties, seed):
    schema = {"type": "object", "properties": properties, "required": sorted(properties)[:1]}
    found = KnownValues().arguments({"name": "f", "parameters": schema}, random.Random(seed))
    assert found is not None and fits(found, schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain: [call it]\nanswers: [a]", "does not name a call: put {name} into it"),
        ("plain: ['{name}']", "must have a list of texts `answers`"),
        ("- x", "must have a list of texts `plain`"),
        ("plain: [", "cannot be read"),
    ],
)
def test_a_file_of_texts_is_refused_in_one_line(tmp_path, text, said):
    file = tmp_path / "texts.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="texts.yaml") as error:
        read_injection_texts(file)
    assert said in str(error.value) and "\n" not in str(error.value)
