"""scripts/forgetting.py: divergence, perplexity and right answers against what can be worked out by hand."""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter

import forgetting
import pytest
import torch
import yaml
from forgetting import Asked, ask, is_right, kept

from aajr_hf.training.models.base_agent import small_llama, train_tokenizer

ENTRIES = [
    {"kind": "fact", "prompt": "what is the capital of france", "answers": ["Paris"]},
    {"kind": "arithmetic", "prompt": "what is 2 plus 3", "answers": ["5", "five"]},
    {"kind": "write", "prompt": "write"},
]


@pytest.fixture(scope="module")
def model_and_tokenizer():
    tokenizer = train_tokenizer([entry["prompt"] for entry in ENTRIES] * 20, vocab_size=300)
    return small_llama(tokenizer, seed=0).eval(), tokenizer


def changed(model):
    agent = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return agent


def test_an_agent_that_is_the_model_keeps_everything(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    asked = ask(model, tokenizer, ENTRIES)
    found = kept(copy.deepcopy(model), model, tokenizer, asked)
    assert found["kl"] == 0.0 and found["perplexity"] == found["model_perplexity"] > 1
    assert set(found["by_kind"]) == {"fact", "arithmetic", "write"}


def test_divergence_and_perplexity_are_those_of_the_whole_sequences_token_by_token(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    agent, asked = changed(model), ask(model, tokenizer, ENTRIES, batch=2)
    found = kept(agent, model, tokenizer, asked)
    divergences, losses = [], []
    for one in asked:
        for i, token in enumerate(one.answer):
            ids = torch.tensor([one.prompt + one.answer[:i]])
            with torch.no_grad():
                p, q = (m(input_ids=ids).logits[0, -1].double().softmax(-1) for m in (model, agent))
            divergences.append(float((p * (p / q).log()).sum()))
            losses.append(-math.log(float(q[token])))
    assert found["kl"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4) and found["kl"] > 0
    assert found["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_only_what_the_model_knew_counts_as_forgotten(model_and_tokenizer, monkeypatch):
    model, tokenizer = model_and_tokenizer
    said = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("capital", "plus", "france")}
    asked = [Asked("fact", [1], said[text], [right]) for text, right in (("capital", "capital"), ("plus", "plus"))]
    asked.append(Asked("fact", [1], said["france"], ["capital"]))  # the model was wrong
    asked.append(Asked("write", [1], said["france"], None))
    monkeypatch.setattr(forgetting, "_answers", lambda *_: [said["capital"], said["france"]])
    found = kept(model, model, tokenizer, asked)
    assert found["right"] == 50.0 and found["asked"] == 2


def test_answers_end_where_the_template_ends_them(model_and_tokenizer, monkeypatch):
    model, tokenizer = model_and_tokenizer
    end = tokenizer.eos_token_id
    monkeypatch.setattr(forgetting, "generate", lambda *_: [[5, end, 7], [5, 6, 7]])
    assert [one.answer for one in ask(model, tokenizer, ENTRIES[:2])] == [[5, end], [5, 6, 7]]


@pytest.mark.parametrize(
    ("text", "right", "said"),
    [
        ("The capital is Paris.", ["Paris"], True),
        ("It is 15.", ["5"], False),
        ("It is 5.", ["5"], True),
        ("SEVEN days", ["7", "seven"], True),
        ("anything", None, False),
    ],
)
def test_right_answers_are_whole_words(text, right, said):
    assert is_right(text, right) is said


def test_the_prompts_are_two_hundred_of_several_kinds():
    entries = yaml.safe_load(forgetting.PROMPTS.read_text())
    assert len({entry["prompt"] for entry in entries}) == len(entries) == 200
    kinds = Counter(entry["kind"] for entry in entries)
    assert len(kinds) == 8 and min(kinds.values()) == 15
    for entry in entries:
        assert ("answers" in entry) == (entry["kind"] in ("fact", "arithmetic"))
        if entry["kind"] == "arithmetic":
            _, _, a, name, b = entry["prompt"].rstrip("?").split()
            sign = {"plus": "+", "minus": "-", "times": "*"}[name]
            assert entry["answers"] == [str(eval(f"{a} {sign} {b}"))]


def test_the_command_prints_a_line_for_each_agent_and_writes_the_numbers(
    model_and_tokenizer, tmp_path, monkeypatch, capsys
):
    model, tokenizer = model_and_tokenizer
    for name, one in (("model", model), ("agent", changed(model))):
        one.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(ENTRIES))
    monkeypatch.setattr(forgetting, "PROMPTS", tmp_path / "prompts.yaml")
    out = tmp_path / "kept.json"
    argv = ["forgetting.py", str(tmp_path / "model"), f"changed={tmp_path / 'agent'}", str(tmp_path / "model")]
    monkeypatch.setattr(sys, "argv", [*argv, "--output", str(out)])
    forgetting.main()
    printed = capsys.readouterr().out
    assert "changed" in printed and "perplexity of the model itself" in printed
    numbers = yaml.safe_load(out.read_text())
    assert numbers["model"]["kl"] == pytest.approx(0, abs=1e-9) and numbers["changed"]["kl"] > 0.01
