"""The loss `distillation`: its limits, the tempered teacher, and which teachers are refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aajr_hf.cli.main import main
from aajr_hf.environments import expert_rows
from aajr_hf.training.models.base_agent import small_llama, train_tokenizer
from aajr_hf.training.policy.distillation import Distillation, tempered, token_divergence
from aajr_hf.training.policy.system_losses import ActionLoss
from tests.support.commands import fails
from tests.support.tiny import WORDS, assert_same_gradient, one_step, tiny_model, trainer


def saved(folder, model):
    model.save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return str(folder)


def entropy(logits):
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 1.5))
def test_the_tempered_entropy_is_the_floor_where_it_was_below(seed, floor):
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(3, 4, 9, generator=generator, dtype=torch.float64)
    where = torch.rand(3, 4, generator=generator) < 0.6
    found = tempered(logits, floor, where)
    below = where & (entropy(logits) < floor)
    assert torch.allclose(entropy(found)[below], torch.tensor(floor, dtype=torch.float64), atol=1e-9)
    assert torch.equal(found[~below], logits[~below])
    assert torch.equal(found.argmax(-1), logits.argmax(-1))
    assert torch.equal(tempered(logits, 0.0, where), logits)


def test_a_divergence_is_that_of_the_formula_and_zero_from_itself():
    p, q = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    expected = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    assert torch.allclose(token_divergence(p, q), expected)
    assert token_divergence(p, p).abs().max() < 1e-12


def distilled(folder, teacher, student=None, **overrides):
    overrides = {
        "system_loss": "distillation",
        "teacher": teacher,
        "regularizer": "none",
        "clean_loss_weight": 1.0,
    } | overrides
    return one_step(folder, student, **overrides)


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"teacher_view": "perturbed"}], ids=str)
def test_a_teacher_like_the_student_teaches_nothing(tmp_path, settings):
    same = saved(tmp_path / "same", tiny_model())
    gradient, log = distilled(tmp_path, same, teacher_entropy_floor=1.0, **settings)
    assert log["aajr/clean_loss"] == pytest.approx(0, abs=1e-6)
    assert max(float(value.abs().max()) for value in gradient.values()) < 1e-6


def test_an_entirely_sure_teacher_is_the_label(tmp_path):
    run = trainer(tmp_path)
    inputs = run.data_collator(list(run.train_dataset)[:4])
    hard = run._system_loss(inputs, None)
    soft = Distillation(run.model, hard.batch, hard._mean)
    labels = torch.nn.functional.one_hot(hard.batch.action_labels, len(WORDS)).double()
    soft._targets = 1e6 * labels
    logits = hard.policy(run.model, None)()
    assert torch.allclose(soft.per_example(logits), hard.per_example(logits))
    some = torch.tensor([2, 0])
    assert torch.equal(soft.per_example(logits[some], some), soft.per_example(logits)[some])
    assert torch.equal(soft.smoothness(), hard.smoothness()) and isinstance(soft, ActionLoss)
    expected = hard.mean(logits, hard.per_example(logits))
    run.args.system_loss = "distillation"
    assert torch.allclose(soft.mean(logits, soft.per_example(logits)), expected)  # over tokens, as TRL's


def test_floor_and_view_change_what_training_lowers_and_not_what_the_adversary_raises(tmp_path):
    other = saved(tmp_path / "other", tiny_model(seed=1))
    plain, log = distilled(tmp_path, other)
    zero, _ = distilled(tmp_path, other, teacher_entropy_floor=0.0)
    assert all(torch.equal(plain[name], zero[name]) for name in plain)
    for changed in ({"teacher_entropy_floor": 3.0}, {"teacher_view": "perturbed"}):
        gradient, found = distilled(tmp_path, other, **changed)
        with pytest.raises(AssertionError, match="relative difference"):
            assert_same_gradient(gradient, plain, 1e-3)
        for name in ("aajr/clean_loss", "aajr/delta_norm", "aajr/direction_cosine"):
            assert found[name] == pytest.approx(log[name], rel=1e-6)
    assert log["aajr/adversarial_loss"] > log["aajr/clean_loss"] > 0


def test_teachers_with_other_tokens_or_embeddings_are_refused(tmp_path):
    wide = saved(tmp_path / "wide", tiny_model(hidden_size=32))
    distilled(tmp_path, wide)  # sees the clean prompt
    with pytest.raises(ValueError, match="`teacher_view` perturbed moves the embeddings"):
        distilled(tmp_path, wide, teacher_view="perturbed")
    tiny_model(vocab_size=len(WORDS) + 8).save_pretrained(tmp_path / "more")
    WORDS.save_pretrained(tmp_path / "more")
    for name in (tmp_path / "more", tmp_path / "none"):
        with pytest.raises(ValueError, match="`teacher`"):
            distilled(tmp_path, str(name))


def test_rows_that_no_agent_answers_are_marked(tmp_path, capsys):
    rows = expert_rows("congestion", 100, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    for seed in (0, 1):
        model = small_llama(tokenizer, seed=seed)
        model.config.aajr_environment = "congestion"
        model.save_pretrained(tmp_path / f"agent-{seed}")
        tokenizer.save_pretrained(tmp_path / f"agent-{seed}")
    agents, out = [str(tmp_path / f"agent-{seed}") for seed in (0, 1)], tmp_path / "rows.jsonl"
    few = ["--examples", "4", "--attack_steps", "1", "--output", str(out)]
    assert main(["unlearnable", *agents, *few]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows[:4]]
    assert all(row["unlearnable"] for row in found)  # random agents answer nothing
    assert "No agent answers 4 of 4 rows" in capsys.readouterr().out
    assert "`--examples`" in fails(capsys, "unlearnable", *agents, "--examples", "0")
