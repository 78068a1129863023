"""A perturbed layer: its states, its Jacobian and its training, on any architecture; 0 is the embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import jacobian

from aajr_hf.training.policy.layers import decoder_layers
from aajr_hf.training.policy.policy import AgentPolicy, embedding_norm
from tests.support.tiny import dataset, one_step, tiny_model, trainer
from tests.training.policy.test_architectures import FAMILIES, model_of


def batch_of(folder, model, examples=2, **settings):
    run = trainer(folder, model, dataset(examples), **settings)
    inputs = run.data_collator(list(run.train_dataset))
    return inputs, run._system_loss(inputs, None).batch


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return batch_of(tmp_path_factory.mktemp("run"), tiny_model(torch.float32))[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_reads_and_receives_its_hidden_states(batch, family):
    model = model_of(family).eval()
    assert len(decoder_layers(model)) == 2
    policy, plain = AgentPolicy(model, batch, layer=1), AgentPolicy(model, batch)
    states = policy.embeddings()
    expected = model(**batch.model_inputs(), output_hidden_states=True).hidden_states[1]
    mask = batch.attention_mask.bool()
    assert torch.allclose(states[mask], expected[mask], atol=1e-5)
    assert torch.equal(policy(), plain()) and torch.equal(policy(torch.zeros_like(states)), plain())
    delta = torch.zeros_like(states).requires_grad_(True)
    logits = policy(delta)
    (gradient,) = torch.autograd.grad(logits.square().sum(), delta)
    moved = policy(1e-2 * gradient / gradient.norm()).detach()
    assert moved.square().sum() > logits.square().sum()
    delta = 0.1 * torch.randn_like(states)

    def shift(module, args, kwargs):
        if args:
            return (args[0] + delta, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] + delta}

    handle = decoder_layers(model)[1].register_forward_pre_hook(shift, with_kwargs=True)
    expected = plain()
    handle.remove()
    assert torch.allclose(policy(delta), expected, atol=1e-6)
    assert torch.equal(policy(), plain())  # the layer is in its place again


def test_the_penalty_is_that_of_the_full_jacobian_from_there_on(tmp_path):
    model = tiny_model()
    run = trainer(tmp_path, model, dataset(2), perturbed_layer=1, ascent_steps=1)
    inputs = run.data_collator(list(run.train_dataset))
    system = run._system_loss(inputs, None)
    ascent = run._ascend(model, system, None)
    states = model(**system.batch.model_inputs(), output_hidden_states=True).hidden_states[1].detach()
    norm = embedding_norm(states, system.batch)
    assert torch.allclose(ascent.scale, norm)
    assert torch.allclose(ascent.ball.epsilon, 0.25 * run.schedules.epsilon_fraction * norm)
    full = jacobian(lambda delta: ascent.policy(delta), torch.zeros_like(states))
    expected = []
    for b, direction in enumerate(ascent.trajectory.directions[0]):
        image = full[b, :, :, b].flatten(2) @ direction.flatten()
        expected.append(float(image.square().sum()))
    found = run._penalise(ascent)
    assert float(found.mean.detach()) == pytest.approx(sum(expected) / 2, rel=1e-5)


def same(left, right) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_with_zero_is_today_and_checkpointing_changes_nothing(tmp_path, checkpointing):
    settings = {"clean_loss_weight": 1.0, "regularizer_lambda": 0.01, "gradient_checkpointing": checkpointing}
    plain, _ = one_step(tmp_path, **settings)
    zero, _ = one_step(tmp_path, perturbed_layer=0, **settings)
    assert same(plain, zero)
    latent, log = one_step(tmp_path, perturbed_layer=1, **settings)
    kept, reference = one_step(tmp_path, perturbed_layer=1, **settings | {"gradient_checkpointing": False})
    assert all(torch.allclose(latent[name], kept[name], rtol=1e-5, atol=1e-9) for name in kept)
    assert log["aajr/penalty"] == pytest.approx(reference["aajr/penalty"], rel=1e-6)
    assert not same(latent, plain) and log["aajr/delta_norm"] > 0


def test_documents_of_one_row_have_the_states_of_single_ones(tmp_path):
    model = tiny_model()
    first, second = torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3, 4])
    row = {"input_ids": torch.cat([first, second])[None], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]])}
    row["labels"] = torch.tensor([[-100, 6, 7, -100, -100, 3, 4]])
    system = trainer(tmp_path, model, perturbed_layer=1)._system_loss(row, None)
    states = system.policy(model, None).embeddings()
    alone = [model(input_ids=ids[None], output_hidden_states=True).hidden_states[1][0] for ids in (first, second)]
    assert torch.allclose(states[0, :3], alone[0], atol=1e-6) and torch.allclose(states[1], alone[1], atol=1e-6)
    assert not states[0, 3:].any()


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`perturbed_layer` must be below the number of layers, 2; got 2"):
        trainer(tmp_path, perturbed_layer=2)


@pytest.mark.parametrize("attribute", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_split_parameters_are_refused(tmp_path, attribute):
    run = trainer(tmp_path, perturbed_layer=1)
    setattr(run, attribute, True)
    with pytest.raises(ValueError, match="`perturbed_layer` is not tested with FSDP"):
        run._check_support()
