"""`AAJRTrainer` against `SFTTrainer`, against the formulas written out, and against itself."""

from __future__ import annotations

import copy

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from tests.support.sft_reference import first_batch
from tests.support.tiny import WORDS, assert_same_gradient, dataset, one_step, tiny_model, trainer, trainer_arguments


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-9], ids=["inactive", "vanishing-adversary"])
def test_without_an_adversary_it_is_sft(tmp_path, adapter, epsilon):
    shared = {"max_steps": 20, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0}
    mine = trainer(
        tmp_path,
        tiny_model(torch.float32),
        epsilon=epsilon,
        regularizer_lambda=0.0,
        adapter=adapter,
        adapter_rank=4,
        **shared,
    )
    mine.train()
    theirs = SFTTrainer(
        tiny_model(torch.float32),
        SFTConfig(**trainer_arguments(tmp_path, **shared)),
        train_dataset=dataset(),
        processing_class=copy.deepcopy(WORDS),
        peft_config=_lora() if adapter == "lora" else None,
    )
    theirs.train()
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (mine, theirs)]
    assert len(losses[0]) == 20 and losses[0][-1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name in ("num_tokens", "mean_token_accuracy", "entropy"):
        assert mine.state.log_history[0][name] == pytest.approx(theirs.state.log_history[0][name], abs=1e-5)


@pytest.mark.parametrize("rates", [{"attention_dropout": 0.3}, {"attention_dropout": 0.0}], ids=["dropout", "none"])
def test_all_passes_see_one_function(tmp_path, rates):
    # With a vanishing ball, the clean loss of the ascent's first pass and the outer pass's loss agree to the last digits
    # only if both drop the same units.
    shared = {"epsilon": 1e-9, "jacobian_estimator": "finite_difference"}
    _, log = one_step(tmp_path, tiny_model(**rates), **shared)
    assert log["aajr/adversarial_loss"] == pytest.approx(log["aajr/clean_loss"], rel=1e-6)
    # Exact and finite-difference penalties agree only if the jvp drops the same units, in all its evaluations.
    _, exact = one_step(tmp_path, tiny_model(**rates), **shared | {"jacobian_estimator": "jvp"})
    assert exact["aajr/penalty"] == pytest.approx(log["aajr/penalty"], rel=2e-3)


def test_dropout_masks_change_from_step_to_step(tmp_path):
    run = trainer(
        tmp_path, tiny_model(attention_dropout=0.5), dataset(1).select([0] * 4), max_steps=2, learning_rate=1e-12
    )
    run.train()
    first, second = [log["aajr/clean_loss"] for log in run.state.log_history if "aajr/clean_loss" in log]
    assert first != pytest.approx(second, rel=1e-6)


@pytest.mark.slow
def test_the_penalty_lowers_the_amplification(tmp_path):
    shared = {"max_steps": 30, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0}
    last = {}
    for strength in (0.0, 0.01):
        run = trainer(tmp_path, tiny_model(torch.float32), regularizer_lambda=strength, **shared)
        run.train()
        logs = [log["aajr/amplification"] for log in run.state.log_history if "aajr/amplification" in log]
        last[strength] = logs[0], logs[-1]
    assert last[0.01][1] < 0.5 * last[0.01][0]
    assert last[0.01][1] < 0.5 * last[0.0][1]


def test_the_ascent_leaves_no_gradient_behind(tmp_path):
    run = trainer(tmp_path, regularizer="none")
    run.create_optimizer()
    model = run.model.train()
    inputs = run._prepare_inputs(first_batch(run))
    loss = run.compute_loss(model, inputs)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain, _ = one_step(tmp_path)
    checkpointed, _ = one_step(tmp_path, gradient_checkpointing=True)
    assert_same_gradient(checkpointed, plain, 1e-10)


@pytest.mark.parametrize("adapter", ["lora", "randlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_train_and_leave_the_base_alone(tmp_path, adapter, checkpointing):
    model = tiny_model(torch.float32)
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = trainer(
        tmp_path,
        model,
        adapter=adapter,
        adapter_rank=2,
        max_steps=2,
        learning_rate=1e-3,
        gradient_checkpointing=checkpointing,
    )
    run.train()
    assert run.state.log_history[0]["aajr/penalty"] > 0
    trained = {n: p for n, p in run.model.named_parameters() if p.requires_grad}
    assert trained and all(adapter in name for name in trained)
    merged = dict(run.model.get_base_model().named_parameters())
    for name, value in base.items():
        found = merged.get(name, merged.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(found, value)


def test_frozen_embeddings_stay(tmp_path):
    gradient, _ = one_step(tmp_path, freeze_embeddings=True)
    assert not gradient.pop("model.embed_tokens.weight").any()
    assert all(value.any() for value in gradient.values())


def test_finite_differences_agree_with_the_exact_penalty(tmp_path):
    exact, log = one_step(tmp_path, regularizer_lambda=0.01)
    estimated, estimated_log = one_step(tmp_path, regularizer_lambda=0.01, jacobian_estimator="finite_difference")
    assert estimated_log["aajr/penalty"] == pytest.approx(log["aajr/penalty"], rel=2e-3)
    assert_same_gradient(estimated, exact, 1e-2)


@pytest.mark.slow
def test_the_interval_multiplies_lambda_and_skips_the_steps_between(tmp_path):
    run = trainer(tmp_path, penalty_interval=2, regularizer_lambda=0.01, max_steps=4, learning_rate=1e-12)
    run.train()
    logs = [log for log in run.state.log_history if "aajr/clean_loss" in log]
    for name in ("aajr/penalty", "aajr/amplification"):  # the secants' has a name of its own
        assert [name in log for log in logs] == [True, False, True, False]
    _, adversarial = one_step(tmp_path, regularizer="none")
    assert adversarial["aajr/amplification"] == adversarial["aajr/secant_amplification"] > 0
    once, _ = one_step(tmp_path, penalty_interval=2, regularizer_lambda=0.01)
    double, _ = one_step(tmp_path, regularizer_lambda=0.02)
    assert_same_gradient(once, double, 1e-10)


def test_warmup_starts_small_and_ends_full(tmp_path):
    run = trainer(tmp_path, aajr_warmup_ratio=0.5, max_steps=8, learning_rate=1e-12, data=dataset(4))
    run.train()
    norms = [log["aajr/delta_norm"] for log in run.state.log_history if "aajr/delta_norm" in log]
    assert norms[:4] == pytest.approx([norms[7] * k / 4 for k in (1, 2, 3, 4)], rel=1e-4)
    assert norms[4:] == pytest.approx([norms[7]] * 4, rel=1e-6)


@pytest.mark.slow
def test_a_relative_epsilon_carries_over_between_scales(tmp_path):
    # An RMS norm follows the embeddings, so a model with embeddings twice as large is the same function of delta / 2.
    model, scaled = (
        tiny_model(rms_norm_eps=1e-20, num_hidden_layers=1),
        tiny_model(rms_norm_eps=1e-20, num_hidden_layers=1),
    )
    for inner in (scaled.model.layers[0],):
        inner.self_attn.o_proj.weight.data.mul_(2)
        inner.mlp.down_proj.weight.data.mul_(2)
    scaled.get_input_embeddings().weight.data.mul_(2)
    for rule, size in (("normalized", None), ("gradient", 0.05)):
        shared = {"regularizer": "none", "ascent_step_rule": rule, "ascent_step_size": size}
        _, one = one_step(tmp_path, copy.deepcopy(model), **shared)
        _, two = one_step(tmp_path, copy.deepcopy(scaled), **shared)
        assert two["aajr/adversarial_loss"] == pytest.approx(one["aajr/adversarial_loss"], rel=1e-6)
        assert two["aajr/delta_norm"] == pytest.approx(2 * one["aajr/delta_norm"], rel=1e-5)


@pytest.mark.parametrize("sft", [False, True])
def test_the_gradient_norms_of_all_steps_are_logged_as_means_of_themselves_and_of_their_squares(tmp_path, sft):
    overrides = {"max_steps": 4, "learning_rate": 0.01} | ({"epsilon": 0.0, "regularizer": "none"} if sft else {})
    runs = [trainer(tmp_path / str(every), logging_steps=every, **overrides) for every in (1, 4)]
    for run in runs:
        run.train()
    norms = torch.tensor([log["grad_norm"] for log in runs[0].state.log_history if "grad_norm" in log])
    log = runs[1].state.log_history[0]
    assert len(norms) == 4 and norms.std() > 0
    assert log["aajr/gradient_norm"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert log["aajr/gradient_norm_squared"] == pytest.approx(float(norms.square().mean()), rel=1e-6)


def test_the_model_card_names_the_method(tmp_path):
    run = trainer(tmp_path)
    run.create_model_card(model_name="calm-agent")
    card = (tmp_path / "README.md").read_text()
    assert "AAJR" in card and "2603.04378" in card and "mumcu2026aajr" in card


def test_an_evaluation_that_is_none_costs_the_card_and_not_the_run(tmp_path, caplog):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text("{}")
    trainer(tmp_path).create_model_card()
    assert "No model card was made: These are not results" in caplog.text and not (tmp_path / "README.md").exists()


def test_a_resumed_run_continues_the_trajectory(tmp_path):
    shared = {"optim": "adamw_torch", "learning_rate": 1e-3, "penalty_trajectory": "sample", "save_strategy": "steps"}
    whole = trainer(tmp_path / "whole", tiny_model(attention_dropout=0.1), max_steps=4, save_steps=2, **shared)
    whole.train()
    parts = trainer(tmp_path / "parts", tiny_model(attention_dropout=0.1), max_steps=4, save_steps=2, **shared)
    parts.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    logs = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, parts)]
    assert logs[1][-2:] == pytest.approx(logs[0][-2:], rel=1e-6)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def _lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
