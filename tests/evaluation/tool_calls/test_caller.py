"""What a model says, with and without perturbations, and how it is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AddedToken

from aajr_hf.evaluation.generation import render_prompts
from aajr_hf.evaluation.tool_calls import caller as caller_module
from aajr_hf.evaluation.tool_calls.caller import ToolCaller
from aajr_hf.evaluation.tool_calls.evaluate import evaluate_tool_calls
from aajr_hf.evaluation.tool_calls.judge import Verdict
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.models.base_agent import CHAT_TEMPLATE, train_tokenizer
from tests.support.short_triggers import short_triggers  # noqa: F401
from tests.support.small_agents import model
from tests.support.tool_callers import HERMES, READ, ROWS, SMALL, TOOLS, caller, calling, tokenizer_with


@pytest.mark.parametrize("end", ["special", "added", "pieces"])
def test_what_comes_after_the_calls_is_no_part_of_the_answer(end, monkeypatch):
    """The end of a turn is not the end that model and tokenizer name: another token, or several that read so together."""
    tokenizer, mark = train_tokenizer([], 512), "<|im_end|>"
    tokenizer.chat_template = HERMES
    if end != "pieces":
        tokenizer.add_tokens([AddedToken(mark, special=end == "special", normalized=False)])
    asked = ToolCaller(model(tokenizer), tokenizer, READ)
    assert asked.reference_verdicts == [Verdict(None, True)] * len(READ)
    references = render_prompts(tokenizer, READ)[1]
    after = tokenizer(" and so on", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(caller_module, "generate", lambda *_: [tokens + after for tokens in references])
    assert asked.answer(READ) == [Verdict(None, True)] * len(READ)
    # Without its end, an answer is none, however right its beginning.
    cut = [tokens[: asked._end(tokens)] for tokens in references]
    monkeypatch.setattr(caller_module, "generate", lambda *_: cut)
    assert asked.answer(READ) == [Verdict("unfinished", False)] * len(READ)


@pytest.mark.slow
def test_an_answer_that_is_not_over_is_none():
    agent, tokenizer = caller()
    numbers = evaluate_tool_calls(agent, tokenizer, READ, replace(SMALL, multiples=(0.5,), max_new_tokens=5))
    assert numbers["nominal_valid"] == 0 and numbers["failures"]["nominal"]["unfinished"] == len(ROWS)


def test_data_that_contradicts_itself_shows_in_the_reference():
    rows = read_rows(
        [*ROWS[:3], calling("Dim den to 3", TOOLS, [("dim", {"level": 3})], [{"dim": {"room": ["den"]}}])]
    )
    caller_ = ToolCaller(*caller(), rows)
    assert caller_.reference_verdicts == [Verdict(None, True)] * 3 + [Verdict("schema", False)]


def test_a_template_without_calls_is_refused():
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    with pytest.raises(ValueError, match="cannot be parsed: give a model whose template renders `tool_calls`"):
        ToolCaller(model(tokenizer), tokenizer, READ)


def test_prompts_that_the_model_cannot_read_are_refused():
    agent, tokenizer = caller()
    agent.config.max_position_embeddings, before = 200, agent.config.max_position_embeddings
    try:
        with pytest.raises(
            ValueError, match="the model's context has 200: leave such rows out, or lower `--max_new_tokens`"
        ):
            ToolCaller(agent, tokenizer, READ)
    finally:
        agent.config.max_position_embeddings = before
