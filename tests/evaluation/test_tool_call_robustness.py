"""An agent that knows its calls by heart, without and under attack, against generation without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aajr_hf.evaluation import tool_call_robustness
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.generation import generate, render_prompts
from aajr_hf.evaluation.tool_call_robustness import ToolCaller, ToolCallSettings, evaluate_tool_calls
from aajr_hf.evaluation.tool_call_rows import read_rows
from aajr_hf.evaluation.tool_calls import FAILURES, Verdict
from aajr_hf.training.base_agent import CHAT_TEMPLATE

from .tiny import model
from .tool_tiny import HERMES, ROWS, TOOLS, caller, calling, tokenizer_with

READ = read_rows(ROWS)
SMALL = ToolCallSettings(multiples=(0.5, 20.0), attack_steps=4, attack_restarts=1, batch_size=4)


@torch.no_grad()
def greedy(agent, prompt, length, delta=None) -> list[int]:
    """The likeliest tokens one by one, without padding, cache or `generate`; delta (>= length of the prompt, d)."""
    embed, said = agent.get_input_embeddings(), []
    start = embed(torch.tensor([prompt])) + (0 if delta is None else delta[: len(prompt)])
    for _ in range(length):
        state = torch.cat([start, embed(torch.tensor([said], dtype=torch.long))], dim=1)
        said.append(int(agent(inputs_embeds=state, use_cache=False).logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("template", ["qwen3", HERMES], ids=["known to TRL", "read here"])
def test_who_knows_the_calls_by_heart_is_perfect_and_falls_under_a_large_radius(template):
    reported = []
    numbers = evaluate_tool_calls(*caller(template), READ, SMALL, lambda: reported.append(1))
    assert numbers["nominal_valid"] == numbers["nominal_exact"] == 100
    assert numbers["reference_valid"] == numbers["reference_exact"] == 100
    assert numbers["worst_case_valid"]["20"] <= 25 and numbers["worst_case_exact"]["20"] == 0
    assert numbers["worst_case_exact"]["0.5"] > 0
    assert numbers["nominal_nll"] < 0.01 < numbers["worst_case_nll"]["0.5"] < numbers["worst_case_nll"]["20"]
    assert numbers["failures"].keys() == {"nominal", "0.5", "20"}
    for name, counts in numbers["failures"].items():
        valid = numbers["nominal_valid"] if name == "nominal" else numbers["worst_case_valid"][name]
        assert counts.keys() == FAILURES.keys() and sum(counts.values()) == round(len(ROWS) * (1 - valid / 100))
    assert numbers["examples"] == len(ROWS)
    assert len(reported) == SMALL.progress_steps(len(ROWS)) == 3
    assert replace(SMALL, batch_size=3).progress_steps(len(ROWS)) == 6


def test_it_does_not_know_other_calls():
    other = read_rows([calling("Dim den to 3", TOOLS, [("dim", {"room": "den", "level": 4})]), *ROWS[1:]])
    assert ToolCaller(*caller(), other).answer(other) == [Verdict(None, False)] + [Verdict(None, True)] * 3


def test_an_attack_of_radius_zero_changes_nothing():
    numbers = evaluate_tool_calls(*caller(), READ, replace(SMALL, multiples=(0.0,), attack_restarts=2))
    assert numbers["worst_case_valid"]["0"] == numbers["nominal_valid"]
    assert numbers["worst_case_exact"]["0"] == numbers["nominal_exact"]
    assert numbers["worst_case_nll"]["0"] == pytest.approx(numbers["nominal_nll"])


def test_attacked_answers_are_those_to_the_perturbed_embeddings():
    agent, tokenizer = caller()
    prompts, references = render_prompts(tokenizer, READ)
    torch.manual_seed(1)
    deltas = 0.3 * torch.randn(len(READ), max(map(len, prompts)) + 3, 32)
    asked = ToolCaller(agent, tokenizer, READ)
    length = max(map(len, references))
    for delta in (None, deltas):
        said = generate(agent, tokenizer.pad_token_id, prompts, delta, length)
        for i, (tokens, prompt) in enumerate(zip(said, prompts, strict=True)):
            end = next((j + 1 for j, token in enumerate(tokens) if token in asked.ends), length)
            assert tokens[:end] == greedy(agent, prompt, length, None if delta is None else delta[i])[:end]
    assert asked.answer(READ, deltas) != asked.answer(READ) == [Verdict(None, True)] * len(READ)


def test_the_adversary_sees_the_tools_and_the_answer_that_is_asked_for():
    agent, tokenizer = caller()
    settings = ToolCallSettings(perturbed_tokens="prompt")
    ((_, batch),) = tool_call_robustness._batches(agent, tokenizer, READ, settings)
    for i, (prompt, reference) in enumerate(zip(*render_prompts(tokenizer, READ), strict=True)):
        assert "heat" in tokenizer.decode(prompt)
        ids = prompt + reference
        assert batch.input_ids[i, : len(ids)].tolist() == ids and batch.attention_mask[i].sum() == len(ids)
        assert batch.action_labels[i][batch.action_mask[i]].tolist() == reference
        assert batch.perturbable[i].tolist() == [j < len(prompt) for j in range(batch.input_ids.shape[1])]


def test_the_attack_finds_the_worst_within_its_radius_and_moves_what_it_may(monkeypatch):
    agent, tokenizer = caller()
    seen = []
    answer = ToolCaller.answer
    monkeypatch.setattr(
        ToolCaller, "answer", lambda self, rows, deltas=None: seen.append(deltas) or answer(self, rows, deltas)
    )
    prompts, _ = render_prompts(tokenizer, READ)
    norms = [agent.get_input_embeddings()(torch.tensor(prompt)).detach().norm(dim=-1) for prompt in prompts]
    for tokens in ("prompt", "observation"):
        seen.clear()
        numbers = evaluate_tool_calls(
            agent, tokenizer, READ, replace(SMALL, multiples=(1.0,), perturbed_tokens=tokens)
        )
        plain, deltas = seen
        assert plain is None
        units = []
        for delta, prompt, norm, row in zip(deltas, prompts, norms, READ, strict=True):
            moved = delta.norm(dim=-1) > 0
            question = row["prompt"][0]["content"]
            texts = [tokenizer.decode(t) for t, there in zip(prompt, moved, strict=False) if there]
            assert not moved[len(prompt) :].any()
            if tokens == "observation":
                assert question.startswith("".join(texts)) and len("".join(texts)) > 0.5 * len(question)
                units.append(norm[moved[: len(prompt)]].mean())
            else:
                assert moved[: len(prompt)].sum() > 0.9 * len(prompt)
                units.append(norm.mean())
            assert 0.9 * SMALL.train_epsilon < delta.norm() / units[-1] <= SMALL.train_epsilon * 1.0001
        assert numbers["embedding_norm"] == pytest.approx(float(torch.stack(units).mean()), rel=1e-5)
        # What is reported is what it did.
        settings = ToolCallSettings(perturbed_tokens=tokens)
        batch = Target(agent, next(tool_call_robustness._batches(agent, tokenizer, READ, settings))[1])
        with torch.no_grad():
            assert numbers["worst_case_nll"]["1"] == pytest.approx(float(batch.nll(deltas).mean()), rel=1e-4)


def test_the_batch_size_does_not_matter():
    one, other = (evaluate_tool_calls(*caller(), READ, replace(SMALL, batch_size=size)) for size in (1, 4))
    # At a radius beyond all that embeddings are, rounding decides.
    for name in ("worst_case_valid", "worst_case_exact", "worst_case_nll", "failures"):
        del one[name]["20"], other[name]["20"]
    assert one["failures"] == other["failures"]
    for name in one.keys() - {"failures"}:
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5)


def test_the_model_is_as_it_was_after_an_attack():
    agent, tokenizer = caller()
    before = [parameter.requires_grad for parameter in agent.parameters()]
    template = tokenizer.chat_template
    evaluate_tool_calls(agent, tokenizer, READ[:1], SMALL)
    assert all(before) and [parameter.requires_grad for parameter in agent.parameters()] == before
    assert not agent.get_input_embeddings()._forward_hooks
    assert tokenizer.chat_template == template and getattr(tokenizer, "response_template", None) is None


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
    with pytest.raises(ValueError, match="the calls can be read back: the template has to render `tool_calls`"):
        ToolCaller(model(tokenizer), tokenizer, READ)


def test_prompts_that_the_model_cannot_read_are_refused():
    agent, tokenizer = caller()
    agent.config.max_position_embeddings, before = 200, agent.config.max_position_embeddings
    try:
        with pytest.raises(ValueError, match="the model reads 200: leave such rows out, or lower `--max_new_tokens`"):
            ToolCaller(agent, tokenizer, READ)
    finally:
        agent.config.max_position_embeddings = before
