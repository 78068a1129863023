"""A saved adapter: training goes on where it ended, and it is the adapter that the settings describe or is refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRDPOTrainer, AAJRTrainer
from aajr_hf.training.models.adapters import FAMILIES, adapter_config
from aajr_hf.training.models.saved_adapters import saved_adapter, why_another
from tests.support.completions import pairs
from tests.support.tiny import WORDS, dataset, tiny_model, trainer_arguments

LORA = {"adapter": "lora", "adapter_rank": 4}
ADAM = {"learning_rate": 1e-2, "optim": "adamw_torch", "epsilon": 0.0, "regularizer": "none"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with an adapter that was trained for two steps, and its checkpoint."""
    root = tmp_path_factory.mktemp("saved")
    tiny_model(torch.float32).save_pretrained(root / "base")
    WORDS.save_pretrained(root / "base")
    run = train(str(root / "base"), root / "adapter", max_steps=2, save_strategy="steps", save_steps=2, **LORA)
    run.train()
    run.save_final()
    return root / "adapter"


def train(model, folder, peft_config=None, **overrides):
    config = AAJRConfig(**trainer_arguments(folder, **ADAM | overrides))
    return AAJRTrainer(model, config, train_dataset=dataset(8), peft_config=peft_config)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("settings", [{}, LORA], ids=["without-adapter", "the-same-adapter"])
def test_training_goes_on_with_it(saved, tmp_path, caplog, settings):
    caplog.set_level("INFO")
    run = train(str(saved), tmp_path / "more", **settings)
    before = weights(run.model)
    stored = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved.parent / "base"), saved)
    of_stored = dict(stored.named_parameters())
    assert before and all(torch.equal(value, of_stored[name]) for name, value in before.items())
    assert run.processing_class.chat_template == WORDS.chat_template
    run.train()
    assert any(not torch.equal(value, before[name]) for name, value in weights(run.model).items())
    run.save_final()
    written = json.loads((tmp_path / "more" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(saved.parent / "base") and written["r"] == 4
    assert f"model_name_or_path: {saved}" in (tmp_path / "more" / "recipe.yaml").read_text()


def test_pairs_go_on_with_it(saved, tmp_path):
    config = AAJRDPOConfig(**trainer_arguments(tmp_path, **ADAM))
    run = AAJRDPOTrainer(str(saved), args=config, train_dataset=pairs())
    before = weights(run.model)
    run.train()
    assert before and any(not torch.equal(value, before[name]) for name, value in weights(run.model).items())


OTHERS = [
    ({"adapter": "lora", "adapter_rank": 8}, "`adapter_rank` is 8.* r = 4"),
    ({"adapter": "dora", "adapter_rank": 4}, "`adapter` is dora, .* is lora with rank 4"),
    ({"adapter": "rslora", "adapter_rank": 4}, "`adapter` is rslora, .* is lora with rank 4"),
    ({"adapter": "hira", "adapter_rank": 4}, "`adapter` is hira, .* is lora with rank 4"),
    (LORA | {"adapter_options": {"lora_alpha": 1}}, "`adapter_options`: lora_alpha is 1, .* lora_alpha = 8"),
]


@pytest.mark.parametrize(("settings", "message"), OTHERS, ids=lambda value: str(value)[:40])
def test_settings_of_another_adapter_are_refused(saved, tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"{message}.*aajr merge"):
        train(str(saved), tmp_path, **settings)


@pytest.mark.parametrize("adapter", FAMILIES)
def test_every_family_is_known_again_by_its_rank(tmp_path, adapter):
    model = tiny_model(torch.float32)

    def args(rank):
        return AAJRConfig(**trainer_arguments(tmp_path, adapter=adapter, adapter_rank=rank))

    adapter_config(args(2), model).save_pretrained(tmp_path)
    found = saved_adapter(tmp_path)
    assert why_another(args(2), model, found) is None
    assert why_another(args(8), model, found).startswith("`adapter_rank` is 8, but the adapter that was saved has ")


def test_a_second_adapter_on_it_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="`peft_config` .*`use_peft`.*aajr merge"):
        train(str(saved), tmp_path, LoraConfig(r=4, task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "it is an adapter, and this run trains a whole model"),
        ({"adapter": "lora", "adapter_rank": 8}, "has the shape"),
        ({"adapter": "dora", "adapter_rank": 4}, "it has no .*lora_magnitude"),
        (LORA | {"adapter_options": {"target_modules": ["q_proj", "embed_tokens"]}}, "it has no .*embed_tokens"),
    ],
    ids=["full", "rank", "dora", "modules"],
)
def test_a_checkpoint_of_other_weights_is_refused(saved, tmp_path, settings, reason):
    if "embed_tokens" in str(settings):
        settings, peft = {}, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"])
    else:
        peft = None
    run = train(str(saved.parent / "base"), tmp_path, peft, **settings)
    with pytest.raises(ValueError, match=f"`resume_from_checkpoint`.*{reason}.*`adapter_rank`"):
        run.train(resume_from_checkpoint=str(saved / "checkpoint-2"))


@pytest.mark.slow
def test_a_checkpoint_of_a_whole_model(saved, tmp_path):
    base = str(saved.parent / "base")
    whole = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train(base, tmp_path / "whole", **whole).train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-1")
    with pytest.raises(ValueError, match="it is a whole model, and this run trains an adapter"):
        train(base, tmp_path / "lora", **LORA).train(resume_from_checkpoint=checkpoint)
    other = tiny_model(torch.float32, hidden_size=8)
    other.config.name_or_path = base
    with pytest.raises(ValueError, match="has the shape .*, and this run's has"):
        train(other, tmp_path / "other").train(resume_from_checkpoint=checkpoint)
    assert train(base, tmp_path / "same", max_steps=2).train(resume_from_checkpoint=checkpoint).global_step == 2


def test_options_of_modules_that_are_not_there(saved, tmp_path):
    base = str(saved.parent / "base")
    for options, field in (
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"trainable_token_indices": [999]}, "trainable_token_indices"),
    ):
        with pytest.raises(ValueError, match=f"`adapter_options`.*`{field}`"):
            train(base, tmp_path, **LORA, adapter_options=options)
