"""Embeddings in PEFT's wrappers: what the policy sees is what the merged model computes; and the number of positions."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPTJConfig, GPTJForCausalLM

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.models.embeddings import embedding_shape, merging_changes_the_head, position_limit
from aajr_hf.training.policy.policy import AgentPolicy
from tests.support.families import TINY_FAMILIES
from tests.support.tiny import WORDS, dataset, tiny_model, trainer, trainer_arguments

WRAPPERS = {
    "lora": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": list(range(5, 12))},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


def wrapped(kind, dtype=torch.float64, **model):
    torch.manual_seed(0)
    adapted = get_peft_model(
        tiny_model(dtype, **model),
        LoraConfig(r=4, task_type="CAUSAL_LM", **WRAPPERS[kind]),
        autocast_adapter_dtype=False,
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapted.eval()


@pytest.mark.parametrize(
    ("kind", "tied"), [("lora", False), *((kind, tied) for kind in ("tokens", "whole") for tied in (0, 1))]
)
def test_the_policy_sees_the_embeddings_of_the_merged_model(tmp_path, kind, tied):
    model = wrapped(kind, tie_word_embeddings=bool(tied))
    merged = copy.deepcopy(model).merge_and_unload()
    run = trainer(tmp_path, tiny_model())
    batch = AgentBatch.from_inputs(run.data_collator([run.train_dataset[i] for i in range(4)]), "prompt")
    adapted, plain = AgentPolicy(model, batch), AgentPolicy(merged, batch)
    state = adapted.embeddings()
    assert torch.allclose(state, plain.embeddings(), atol=1e-12)
    assert not torch.allclose(state, AgentPolicy(tiny_model(), batch).embeddings(), atol=1e-2)
    delta = torch.randn_like(state) * batch.perturbable[..., None]
    assert torch.allclose(adapted(delta), plain(delta), atol=1e-10)
    assert not torch.allclose(adapted(delta), adapted(), atol=1e-2)
    assert embedding_shape(model) == embedding_shape(merged) == (len(WORDS), 16)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_they_are_trained(tmp_path, kind):
    settings = trainer_arguments(tmp_path, learning_rate=1e-2, optim="adamw_torch")
    run = AAJRTrainer(
        tiny_model(torch.float32),
        AAJRConfig(**settings),
        train_dataset=dataset(8),
        processing_class=copy.deepcopy(WORDS),
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM", **WRAPPERS[kind]),
    )
    embedding, ids = run.model.get_input_embeddings(), torch.arange(5, 20)
    before = embedding(ids).detach().clone()
    run.train()
    assert run.estimator == "jvp"
    assert not torch.allclose(embedding(ids).detach(), before, atol=1e-5)


def test_frozen_embeddings_are_frozen_with_their_adapter(tmp_path, caplog):
    run = AAJRTrainer(
        tiny_model(torch.float32),
        AAJRConfig(**trainer_arguments(tmp_path, freeze_embeddings=True)),
        train_dataset=dataset(8),
        processing_class=copy.deepcopy(WORDS),
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM", **WRAPPERS["lora"]),
    )
    embedding, ids = run.model.get_input_embeddings(), torch.arange(5, 20)
    before = embedding(ids).detach().clone()
    run.train()
    assert torch.equal(embedding(ids), before) and "`freeze_embeddings`" in caplog.text


def test_an_adapter_on_one_side_of_a_shared_weight_is_not_merged(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny_model(torch.float32, tie_word_embeddings=True).save_pretrained(base)
    model = wrapped("lora", torch.float32, tie_word_embeddings=True)
    assert merging_changes_the_head(model)
    assert not merging_changes_the_head(wrapped("tokens", torch.float32, tie_word_embeddings=True))
    model.active_peft_config.base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    WORDS.save_pretrained(folder)
    ids = torch.arange(3, 11)[None]
    assert torch.allclose(load_agent(str(folder))[0](ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_number_of_positions_and_whether_there_are_more(tiny_causal_lm, family):
    model = tiny_causal_lm(family)
    limit, is_fixed = position_limit(model)
    assert limit == 64
    longer = torch.ones(1, limit + 1, dtype=torch.long)
    if is_fixed:
        with pytest.raises((IndexError, RuntimeError)):
            model(longer)
    else:
        assert model(longer).logits.isfinite().all()


def test_a_computed_table_has_an_end_too():
    sizes = {"vocab_size": 31, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4, "n_positions": 32}
    assert position_limit(GPTJForCausalLM(GPTJConfig(**sizes))) == (32, True)
