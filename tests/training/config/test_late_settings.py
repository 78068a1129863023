"""Settings that Transformers and TRL refuse late are refused at once, by their name, and whatever works passes."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig
from aajr_hf.training.config.late_settings import check_attention, check_machine, check_settings
from tests.support.tiny import trainer, trainer_arguments

REFUSED = [
    ({"report_to": "nothing"}, "report_to"),
    ({"report_to": ["tensorboard", "nothing"]}, "report_to"),
    ({"optim_args": "betas"}, "optim_args"),
    ({"optim": "adamw_torch", "adam_beta1": 2.0}, "optim"),
    ({"optim": "adamw_torch", "adam_epsilon": -1.0}, "optim"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type"),
    ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type"),
    ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"speed": 1}}, "lr_scheduler_kwargs"),
    ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers"),
    ({"dataloader_num_workers": -1}, "dataloader_num_workers"),
    ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size"),
    ({"eval_accumulation_steps": 0}, "eval_accumulation_steps"),
    ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
    ({"max_length": -1}, "max_length"),
    ({"gradient_checkpointing_kwargs": {"speed": 1}}, "gradient_checkpointing_kwargs"),
    ({"max_steps": 0}, "max_steps"),
    ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs"),
    ({"chat_template_path": "nowhere.jinja"}, "chat_template_path"),
    ({"chat_template_path": "./nowhere"}, "chat_template_path"),
    ({"chat_template_path": __file__}, "chat_template_path"),
    ({"activation_offloading": True}, "activation_offloading"),
    ({"model_init_kwargs": {"attn_implementation": "flex_attention"}}, "attn_implementation"),
    ({"model_init_kwargs": {"attn_implementation": "flash_attention_3"}}, "attn_implementation"),
    ({"eval_on_start": True}, "eval_on_start"),
    ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "gradient_checkpointing_kwargs"),
    ({"gradient_checkpointing_kwargs": {"determinism_check": "foo"}}, "gradient_checkpointing_kwargs"),
    ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "lr_scheduler_kwargs"),
    ({"packing": True, "max_length": None}, "packing"),
    ({"dataset_num_proc": -1}, "dataset_num_proc"),
    ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 0}, "dataloader_prefetch_factor"),
    ({"accelerator_config": {"foo": 1}}, "accelerator_config"),
    ({"accelerator_config": "nowhere.json"}, "accelerator_config"),
    ({"pad_to_multiple_of": "many"}, "pad_to_multiple_of"),
    ({"torch_compile_mode": "foo"}, "torch_compile_mode"),
    ({"torch_compile_backend": "foo"}, "torch_compile_backend"),
    ({"dataset_kwargs": {"skip_prepare_dataset": True}}, "dataset_kwargs"),  # the data are no tokens
    ({"dataset_kwargs": {"add_special_tokens": False}}, "dataset_kwargs"),
    ({"hub_strategy": "often"}, "hub_strategy"),
    ({"save_strategy": "often"}, "save_strategy"),
]


@pytest.mark.parametrize(("overrides", "field"), REFUSED, ids=lambda value: str(value)[:60])
def test_they_are_refused_before_the_data_are_prepared(tmp_path, monkeypatch, overrides, field):
    from aajr_hf import AAJRTrainer

    if field != "eval_on_start":  # which depends on the data
        monkeypatch.setattr(AAJRTrainer, "_prepare_dataset", None)
    with pytest.raises(ValueError, match=f"`{field}`") as refused:
        trainer(tmp_path, **overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim": "adafactor", "optim_args": "beta1=0.5, clip_threshold = 2"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 1}},
        {"warmup_steps": 0.5, "max_length": None},
        {"max_steps": -1, "num_train_epochs": 0.25},
    ],
    ids=str,
)
def test_what_works_passes(tmp_path, overrides):
    args = AAJRConfig(**trainer_arguments(tmp_path, **overrides))
    assert check_settings(args) is check_machine(args) is None


@pytest.mark.parametrize("name", [item.value for item in OptimizerNames])
def test_every_optimizer_works_or_is_refused_by_name(tmp_path, name):
    args = AAJRConfig(**trainer_arguments(tmp_path, optim=name))
    try:
        check_settings(args)
    except ValueError as error:
        assert str(error).startswith(f"`optim` {name} ") and "\n" not in str(error)
    else:
        assert name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")


@pytest.mark.parametrize("name", INTEGRATION_TO_CALLBACK)
def test_every_tracker_is_there_or_refused_with_its_package(tmp_path, name):
    args = AAJRConfig(**trainer_arguments(tmp_path, report_to=name))
    if name in get_available_reporting_integrations():
        check_settings(args)
        return
    with pytest.raises(ValueError, match=f"`report_to` {name} needs a package: pip install"):
        check_settings(args)


@pytest.mark.skipif(find_spec("kernels") is not None, reason="kernels are installed")
@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"])
def test_kernels_that_are_not_installed(name):
    with pytest.raises(ValueError, match="pip install kernels"):
        check_attention(name)
    for other in (None, "sdpa", "eager", "flex_attention"):
        check_attention(other)


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="Liger is installed")
def test_liger(tmp_path):
    with pytest.raises(ValueError, match="`use_liger_kernel` needs Liger: pip install"):
        check_settings(AAJRConfig(**trainer_arguments(tmp_path, use_liger_kernel=True)))


@pytest.mark.parametrize(
    ("config", "overrides", "field"),
    [
        (AAJRDPOConfig, {"loss_type": ["foo"], "epsilon": 0.0, "regularizer": "none"}, "loss_type"),
        (AAJRDPOConfig, {"f_divergence_type": "foo", "epsilon": 0.0, "regularizer": "none"}, "f_divergence_type"),
        (AAJRGRPOConfig, {"scale_rewards": "foo"}, "scale_rewards"),
        (AAJRGRPOConfig, {"multi_objective_aggregation": "foo"}, "multi_objective_aggregation"),
        (AAJRGRPOConfig, {"num_generations": 0}, "num_generations"),
        (AAJRGRPOConfig, {"steps_per_generation": 0}, "steps_per_generation"),
        (AAJRGRPOConfig, {"temperature": 0.0}, "temperature"),
        (AAJRGRPOConfig, {"top_k": -1}, "top_k"),
        (AAJRGRPOConfig, {"top_p": 2.0}, "top_p"),
        (AAJRGRPOConfig, {"min_p": 2.0}, "min_p"),
        (AAJRGRPOConfig, {"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_those_of_pairs_and_samples_too(tmp_path, config, overrides, field):
    settings = {"num_generations": 2} if config is AAJRGRPOConfig else {}
    check_settings(config(**trainer_arguments(tmp_path, **settings)))
    with pytest.raises(ValueError, match=f"`{field}`") as refused:
        check_settings(config(**trainer_arguments(tmp_path, **settings | overrides)))
    assert "\n" not in str(refused.value)
