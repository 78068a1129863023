"""A prefix whose keys and values are cached changes no logit and no gradient, and is not used where it could."""

from __future__ import annotations

import functools

import pytest
import torch
from datasets import Dataset

from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.objective import squared_amplification
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.policy.policy import AgentPolicy, frozen_parameters
from tests.support.tiny import ROWS, tiny_model, trainer
from tests.training.policy.test_architectures import FAMILIES, model_of

_SYSTEM = {"role": "system", "content": "now ok now ok now ok now ok now"}
# Families with full attention alone; the others must fall back to whole passes.
_WHOLE = ("gpt-oss", "mistral", "gemma2", "gemma3", "lfm2")


def rows_with_system_prompt(examples: int = 6, shared: bool = True) -> list[dict]:
    systems = [{**_SYSTEM, "content": _SYSTEM["content"] + " ok" * (0 if shared else i % 2)} for i in range(examples)]
    return [{**row, "prompt": [system, *row["prompt"]]} for system, row in zip(systems, ROWS, strict=False)]


def batch_of(folder, shared: bool = True) -> AgentBatch:
    settings = {"perturbed_tokens": "observation", "per_device_train_batch_size": 6}
    run = trainer(folder, tiny_model(), Dataset.from_list(rows_with_system_prompt(shared=shared)), **settings)
    return AgentBatch.from_inputs(next(iter(run.get_train_dataloader())), "observation")


def logits_and_gradient(policy: AgentPolicy, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    delta = delta.clone().requires_grad_(True)
    logits = policy(delta)
    (gradient,) = torch.autograd.grad(logits.square().sum(), delta)
    return logits.detach(), gradient * policy.batch.perturbable[..., None]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("family", FAMILIES)
def test_changes_no_logit_and_no_gradient(tmp_path, family, shared):
    model = model_of(family, torch.float64).eval()
    model.set_experts_implementation("eager")  # a grouped product takes no float64
    batch = batch_of(tmp_path, shared)
    policy = AgentPolicy(model, batch)
    cached = policy.with_cached_prefix()
    assert (cached.prefix is None) == (family in _WHOLE)
    if cached.prefix is None:
        return  # so the passes are whole ones
    assert cached.prefix.length >= 8 and cached.prefix.shared == shared
    delta = torch.randn(*batch.input_ids.shape, 16, dtype=torch.float64) * batch.perturbable[..., None]
    tolerance = 1e-6 if family == "bloom" else 1e-8  # Bloom's softmax is in float32
    for rows in (torch.arange(6), torch.tensor([4, 1])):
        expected = logits_and_gradient(policy.select(rows), delta[rows])
        for _ in range(2):  # a pass must not change what the next one sees
            found = logits_and_gradient(cached.select(rows), delta[rows])
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_jvp_goes_through_it(tmp_path):
    model, batch = tiny_model().eval(), batch_of(tmp_path)
    policy = AgentPolicy(model, batch)
    direction = torch.randn(*batch.input_ids.shape, 16, dtype=torch.float64) * batch.perturbable[..., None]
    origin = torch.zeros_like(direction)
    expected, found = (squared_amplification(p, origin, direction) for p in (policy, policy.with_cached_prefix()))
    torch.testing.assert_close(found, expected)
    assert expected.min() > 0


def test_is_not_used_where_it_does_not_hold(tmp_path):
    batch = batch_of(tmp_path)
    assert AgentPolicy(tiny_model(), batch).with_cached_prefix().prefix is not None
    assert AgentPolicy(tiny_model(), batch, dropout_seed=0).with_cached_prefix().prefix is None
    batch.perturbable[3, 2] = True  # one example's prefix is too short
    assert AgentPolicy(tiny_model(), batch).with_cached_prefix().prefix is None
    batch.perturbable[3, 2] = False
    batch.action_positions[3, 0] = 5  # its logits would be needed there
    assert AgentPolicy(tiny_model(), batch).with_cached_prefix().prefix is None


@pytest.mark.parametrize("training", [True, False])
def test_checkpointed_layers_drop_the_cache_in_training(tmp_path, training):
    model, batch = tiny_model().train(training), batch_of(tmp_path)
    model.gradient_checkpointing_enable()
    assert (AgentPolicy(model, batch).with_cached_prefix().prefix is None) == training


def test_no_weight_keeps_a_graph(tmp_path):
    model, batch = tiny_model(), batch_of(tmp_path)
    policy = AgentPolicy(model, batch).with_cached_prefix()
    assert not any(t.requires_grad for states in policy.prefix.states for t in states)
    with frozen_parameters(model):
        assert not policy().requires_grad


def _tokens_of_passes(model, run) -> list[int]:
    widths = []
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    run()
    handle.remove()
    return widths


@pytest.mark.slow
@pytest.mark.parametrize("system", ["nll", "expected_cost"])
def test_training_sees_the_prefix_once_an_ascent_and_takes_the_same_steps(tmp_path, monkeypatch, system):
    """With whole passes and with cached prefixes, training gives the same weights, in fewer tokens."""
    weights, tokens = {}, {}
    for shortest in (8, 10_000):
        monkeypatch.setattr("aajr_hf.training.policy.prefix._SHORTEST", shortest)
        model = tiny_model()
        settings = {"perturbed_tokens": "observation", "ascent_steps": 3, "max_steps": 2, "system_loss": system}
        sampled = {"penalty_trajectory": "sample", "regularizer_lambda": 1e-3, "learning_rate": 1e-2}
        run = trainer(tmp_path, model, Dataset.from_list(rows_with_system_prompt()), **settings | sampled)
        tokens[shortest] = sum(_tokens_of_passes(model, run.train))
        weights[shortest] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(weights[8], weights[10_000], rtol=1e-9, atol=1e-10)
    assert tokens[8] < 0.9 * tokens[10_000]


def test_attacks_see_it_once(tmp_path):
    model, batch = tiny_model().eval(), batch_of(tmp_path)
    length, known = batch.input_ids.shape[1], AgentPolicy(model, batch).with_cached_prefix().prefix.length
    target = []
    made = _tokens_of_passes(model, lambda: target.append(Target(model, batch)))
    assert known in made
    chosen = target[0].select(torch.tensor([2, 0]))
    assert torch.equal(chosen.state, target[0].state[[2, 0]]) and torch.equal(chosen.scale, target[0].scale[[2, 0]])
    widths = _tokens_of_passes(model, functools.partial(chosen.outcome, chosen.origin))
    assert widths == [length - known]
