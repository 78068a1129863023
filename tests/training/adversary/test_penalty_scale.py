"""A relative lambda: the gradient of a logarithm, in which no unit is left."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import assert_same_gradient, dataset, one_step, tiny_model, trainer

STEPS = {"max_steps": 5, "learning_rate": 0.05, "aajr_warmup_ratio": 0.0, "freeze_embeddings": True, "epsilon": 0.5}
RELATIVE = {"lambda_mode": "relative", "regularizer_lambda": 0.1}


def weights(run):
    return {name: parameter.detach() for name, parameter in run.model.named_parameters()}


def trained(folder, model=None, **overrides):
    run = trainer(folder, tiny_model() if model is None else model, dataset(16), **STEPS | overrides)
    run.train()
    return run


@pytest.mark.slow
def test_the_gradient_is_that_of_lambda_log_r(tmp_path):
    model = tiny_model()
    run = trainer(tmp_path, model, lambda_mode="relative", clean_loss_weight=0.5, aajr_warmup_ratio=0.0)
    inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
    model.train()

    def gradient(weight, mean):
        run.args.regularizer_lambda, run.memory.numbers["penalty_mean"] = weight, mean
        loss = run.compute_loss(model, inputs)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return loss.detach(), torch.cat([g.flatten() for g in gradients if g is not None])

    bare, without = gradient(0.0, 1.0)
    whole, with_penalty = gradient(1.0, 1.0)
    penalty = float(whole - bare)
    _, relative = gradient(0.3, penalty)  # the running mean is the penalty of this batch at these weights
    log_gradient = (with_penalty - without) / penalty
    expected = without + 0.3 * log_gradient
    assert float((relative - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.slow
def test_the_first_step_measures_and_does_not_penalise(tmp_path):
    none, _ = one_step(tmp_path, regularizer="none", aajr_warmup_ratio=0.0)
    first, log = one_step(tmp_path, aajr_warmup_ratio=0.0, **RELATIVE)
    assert_same_gradient(first, none, 1e-12)
    assert log["aajr/penalty"] > 0 and log["aajr/lambda"] == 0


@pytest.mark.slow
def test_the_running_mean_is_that_of_the_logged_penalties(tmp_path):
    run = trained(tmp_path, **RELATIVE)
    logs = [log for log in run.state.log_history if "aajr/penalty" in log]
    mean = logs[0]["aajr/penalty"]
    for log in logs[1:]:
        assert log["aajr/lambda"] == pytest.approx(0.1 / mean, rel=1e-4)
        mean = 0.8 * mean + 0.2 * log["aajr/penalty"]
    assert run.memory.numbers["penalty_mean"] == pytest.approx(mean, rel=1e-4)


def rescaled(factor):
    """The same model with embeddings `factor` times as large, which its first layer divides by it."""
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight *= factor

    def divide(module, args, kwargs):
        if args:
            return (args[0] / factor, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] / factor}

    model.model.layers[0].register_forward_pre_hook(divide, with_kwargs=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["aajr", "global_spectral"])
def test_the_unit_of_the_embeddings_changes_nothing(tmp_path, regularizer):
    def runs(mode, value):
        settings = {"regularizer": regularizer, "lambda_mode": mode, "regularizer_lambda": value}
        return [trained(tmp_path, rescaled(factor), **settings) for factor in (1.0, 8.0)]

    def differences(one, other):
        other = weights(other)
        return [float((w - other[n]).abs().max()) for n, w in weights(one).items() if "embed_tokens" not in n]

    plain, wide = runs("relative", 0.1)
    scale = [run.memory.numbers["penalty_mean"] for run in (plain, wide)]
    assert scale[0] == pytest.approx(64 * scale[1], rel=1e-6)
    assert max(differences(plain, wide)) < 1e-7
    if regularizer == "aajr":  # but not with an absolute one
        assert max(differences(*runs("absolute", 1e-3))) > 1e-4


def dead_words(logits, size):
    return torch.cat((logits[..., :size], torch.full_like(logits[..., size:], -1e4)), -1)


@pytest.mark.slow
def test_words_that_the_model_cannot_say_change_nothing(tmp_path):
    padded = tiny_model()
    size = padded.config.vocab_size
    padded.resize_token_embeddings(size + 40)
    padded.lm_head.register_forward_hook(lambda head, inputs, logits: dead_words(logits, size))
    plain, other = (trained(tmp_path, model, **RELATIVE) for model in (tiny_model(), padded))
    assert other.memory.numbers["penalty_mean"] == pytest.approx(plain.memory.numbers["penalty_mean"], rel=1e-6)
    found = weights(other)
    for name, value in weights(plain).items():
        assert torch.allclose(found[name][: len(value)], value, atol=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "same"), [("relative", True), ("absolute", False)])
def test_the_unit_of_the_logits_changes_nothing_of_the_penalty(tmp_path, mode, same):
    """At points and along directions that do not depend on the logits; the adversary's own do, because its loss does."""

    def penalty_gradient(factor):
        model = tiny_model()
        model.lm_head.register_forward_hook(lambda head, inputs, logits: factor * logits)
        fixed = {"regularizer": "random_direction", "lambda_mode": mode, "regularizer_lambda": 0.1, "epsilon": 1e-8}
        run = trainer(tmp_path, model, aajr_warmup_ratio=0.0, **fixed)
        inputs = run._prepare_inputs(next(iter(run.get_train_dataloader())))
        model.train()
        found = []
        for weight in (0.0, 0.1):
            run.args.regularizer_lambda = weight
            if mode == "relative":
                run.memory.numbers["penalty_mean"] = factor**2  # as it is in a training of this model
            torch.manual_seed(0)
            gradients = torch.autograd.grad(
                run.compute_loss(model, inputs), list(model.parameters()), allow_unused=True
            )
            found.append(torch.cat([g.flatten() for g in gradients if g is not None]))
        return found[1] - found[0]

    plain, large = penalty_gradient(1.0), penalty_gradient(3.0)
    difference = float((plain - large).norm() / plain.norm())
    assert difference < 1e-6 if same else difference == pytest.approx(8.0)


@pytest.mark.slow
def test_accumulated_micro_batches_are_one_batch(tmp_path):
    whole = trained(tmp_path, **RELATIVE)
    parts = trained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, **RELATIVE)
    for name, value in weights(whole).items():
        assert torch.allclose(weights(parts)[name], value, atol=1e-9)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_mean_that_it_had(tmp_path):
    settings = RELATIVE | {"save_strategy": "steps", "save_steps": 2}
    whole = trained(tmp_path / "run", **settings)
    resumed = trainer(tmp_path / "run", tiny_model(seed=1), dataset(16), **STEPS | settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.memory.numbers["penalty_mean"] == whole.memory.numbers["penalty_mean"]
    assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(whole).items())


def test_a_budget_has_its_own_unit(tmp_path):
    with pytest.raises(ValueError, match="`lambda_mode` must be absolute with an `amplification_budget`"):
        trainer(tmp_path, amplification_budget=1.0, **RELATIVE)
