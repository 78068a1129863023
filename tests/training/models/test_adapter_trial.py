"""What PEFT refuses is refused before weights and data are read, by the name of the field; what it takes passes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.training.config.adapter_names import ADAPTERS
from aajr_hf.training.models.adapters import adapter_config
from tests.support.tiny import WORDS, dataset, tiny_model, trainer_arguments


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    tiny_model(torch.float32).save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return str(folder)


REFUSED = [
    {"bias": "foo"},
    {"lora_dropout": 2},
    {"lora_dropout": "much"},
    {"lora_alpha": "high"},
    {"init_lora_weights": "foo"},
    {"layers_to_transform": [99]},
    {"r": -1},
    {"target_parameters": ["foo"], "target_modules": []},
    {"rank_pattern": 3},
    {"target_modules": "("},
    {"modules_to_save": 3},
    {"trainable_token_indices": [-5]},
    {"inference_mode": True},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_options_are_refused_before_the_data_are_prepared(agent, tmp_path, monkeypatch, options):
    monkeypatch.setattr(AAJRTrainer, "_prepare_dataset", None)
    args = AAJRConfig(**trainer_arguments(tmp_path, adapter="lora", adapter_rank=2, adapter_options=options))
    with pytest.raises(ValueError, match="`adapter_options`") as refused:
        AAJRTrainer(agent, args, train_dataset=dataset())
    assert "\n" not in str(refused.value)


def test_so_are_those_of_an_own_configuration(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(AAJRTrainer, "_prepare_dataset", None)
    args = AAJRConfig(**trainer_arguments(tmp_path))
    for wrong in ({"bias": "foo"}, {"modules_to_save": ["foo"]}):
        with pytest.raises(ValueError, match="`peft_config` .*`lora_...`.*foo"):
            AAJRTrainer(agent, args, train_dataset=dataset(), peft_config=LoraConfig(**wrong))


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "full"])
def test_every_family_passes(agent, tmp_path, adapter):
    args = AAJRConfig(**trainer_arguments(tmp_path, adapter=adapter, adapter_rank=4))
    assert adapter_config(args, agent) is not None


@pytest.mark.parametrize("start", [True, False, "gaussian", "pissa", "pissa_niter_2", "olora", "orthogonal", "eva"])
def test_every_start_of_lora_passes(agent, tmp_path, start):
    options = {"init_lora_weights": start, "use_rslora": True, "bias": "lora_only", "modules_to_save": ["lm_head"]}
    args = AAJRConfig(**trainer_arguments(tmp_path, adapter="lora", adapter_rank=4, adapter_options=options))
    assert adapter_config(args, agent).init_lora_weights == start
