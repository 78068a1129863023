"""Bad settings and bad data are refused before training, non-finite numbers stop it, and nothing is swallowed."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch
from datasets import Dataset
from peft import BOFTConfig, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from transformers import AttentionInterface, MixtralConfig, MixtralForCausalLM
from trl import DPOConfig, GRPOConfig, SFTConfig

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig, AAJRTrainer
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.policy.policy import uses_dropout
from tests.support.tiny import ROWS, WORDS, dataset, tiny_model, trainer, trainer_arguments


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"epsilon": -0.1}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"regularizer_lambda": -1.0}, "regularizer_lambda"),
        ({"regularizer_lambda": float("inf")}, "regularizer_lambda"),
        ({"clean_loss_weight": -1.0}, "clean_loss_weight"),
        ({"adversarial_loss_weight": -1.0}, "adversarial_loss_weight"),
        ({"adversarial_loss_weight": 0.0}, "adversarial_loss_weight"),
        ({"ascent_steps": -1}, "ascent_steps"),
        ({"ascent_steps": 0}, "ascent_steps"),
        ({"ascent_steps": 0, "epsilon": 0.0}, "ascent_steps"),
        ({"ascent_step_size": "large"}, "ascent_step_size"),
        ({"ascent_step_size": -1.0}, "ascent_step_size"),
        ({"ascent_step_size": 0.0}, "ascent_step_size"),
        ({"ascent_step_size": "auto"}, "ascent_step_rule"),
        ({"penalty_fraction": 0.0}, "penalty_fraction"),
        ({"penalty_fraction": 1.1}, "penalty_fraction"),
        ({"penalty_interval": 0}, "penalty_interval"),
        ({"penalty_radius": 0.9}, "penalty_radius"),
        ({"penalty_radius": float("nan")}, "penalty_radius"),
        ({"penalty_radius": 2.0, "epsilon": 0.0}, "penalty_radius"),
        ({"penalty_radius": 2.0, "regularizer": "global_spectral"}, "penalty_radius"),
        ({"penalty_radius": 2.0, "regularizer": "global_frobenius"}, "penalty_radius"),
        ({"adapter_rank": 0}, "adapter_rank"),
        ({"aajr_warmup_ratio": 2.0}, "aajr_warmup_ratio"),
        ({"epsilon_schedule": "step"}, "epsilon_schedule"),
        ({"ascent_steps_schedule": "curriculum", "aajr_warmup_ratio": 0.0}, "aajr_warmup_ratio"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"curriculum_threshold": 0.0}, "curriculum_threshold"),
        ({"amplification_budget": 0.0}, "amplification_budget"),
        ({"amplification_budget": -1.0}, "amplification_budget"),
        ({"amplification_budget": 1.0, "regularizer": "none"}, "amplification_budget"),
        ({"amplification_budget": 1.0, "regularizer": "none", "epsilon": 0.0}, "amplification_budget"),
        ({"amplification_budget": "5"}, "amplification_budget"),
        ({"amplification_budget": 1.0, "lambda_schedule": "curriculum"}, "lambda_schedule"),
        ({"amplification_budget": 1.0, "aajr_warmup_ratio": 0.6}, "aajr_warmup_ratio"),
        ({"aajr_warmup_ratio": None}, "aajr_warmup_ratio"),
        ({"rollback_tolerance": -0.1}, "rollback_tolerance"),
        ({"rollback_tolerance": float("nan")}, "rollback_tolerance"),
        ({"rollback_tolerance": "much"}, "rollback_tolerance"),
        ({"rollback_tolerance": 0.1, "epsilon": 0.0}, "rollback_tolerance"),
        ({"rollback_interval": 0}, "rollback_interval"),
        ({"overfitting_interval": -1}, "overfitting_interval"),
        ({"overfitting_interval": 5, "epsilon": 0.0}, "overfitting_interval"),
        ({"overfitting_interval": 5, "ascent_steps": 10}, "ascent_steps"),
        ({"ascent_start": "corner"}, "ascent_start"),
        ({"teacher": "somewhere"}, "teacher"),
        ({"system_loss": "distillation"}, "teacher"),
        (
            {"system_loss": "distillation", "teacher": "somewhere", "teacher_entropy_floor": -1.0},
            "teacher_entropy_floor",
        ),
        ({"system_loss": "distillation", "teacher": "somewhere", "packing": True}, "system_loss"),
        ({"perturbed_layer": -1}, "perturbed_layer"),
        ({"nuisance_rank": 0}, "nuisance_rank"),
        ({"nuisance": "noise"}, "nuisance"),
        ({"sensitivity_floor": -1.0}, "sensitivity_floor"),
        ({"sensitivity_floor": 1.0, "regularizer": "none"}, "sensitivity_floor"),
        ({"sensitivity_floor": 2.0, "amplification_budget": 1.0}, "sensitivity_floor"),
        ({"sensitivity_floor": 1.0, "per_device_train_batch_size": 1}, "sensitivity_floor"),
        ({"long_tail_alpha": 1.0}, "long_tail_alpha"),
        ({"long_tail_alpha": -0.1}, "long_tail_alpha"),
        ({"long_tail_alpha": 0.3, "epsilon": 0.0}, "long_tail_alpha"),
        ({"long_tail_alpha": 0.3, "packing": True}, "long_tail_alpha"),
        ({"regularizer": "spectral"}, "regularizer"),
        ({"adapter": "lorra"}, "adapter"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy"),
        ({"loss_type": "dft"}, "loss_type"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(tmp_path, overrides, field):
    with pytest.raises(ValueError, match=f"`{field}`"):
        AAJRConfig(**trainer_arguments(tmp_path, **overrides))


def test_settings_that_do_not_matter_are_not_checked(tmp_path):
    without = {"regularizer": "none", "penalty_radius": 2.0}
    config = AAJRConfig(**trainer_arguments(tmp_path, epsilon=0.0, packing=True, **without))
    assert not config.is_active
    # Compared with a penalty by leaving it out of the same recipe.
    assert AAJRConfig(**trainer_arguments(tmp_path, **without)).is_active


@pytest.mark.parametrize(
    ("config", "trl"), [(AAJRConfig, SFTConfig), (AAJRDPOConfig, DPOConfig), (AAJRGRPOConfig, GRPOConfig)]
)
def test_every_field_has_a_help_text_and_a_paragraph(config, trl):
    from dataclasses import fields

    own = [f for f in fields(config) if f.name not in trl.__dataclass_fields__]
    assert len(own) > 20
    for field in own:
        assert field.metadata["help"]
        assert re.search(rf"^        {field.name} \(", config.__doc__, re.MULTILINE), field.name


def test_the_configuration_must_be_an_aajr_configuration(tmp_path):
    with pytest.raises(TypeError, match="AAJRConfig"):
        AAJRTrainer(tiny_model(), SFTConfig(**trainer_arguments(tmp_path)), train_dataset=dataset())


def test_left_padding_is_refused():
    inputs = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, -100, 6], [-100, -100, 7, 8]]),
    }
    with pytest.raises(ValueError, match="padding_side"):
        AgentBatch.from_inputs(inputs, "prompt")


def _replaced(**columns) -> Dataset:
    return Dataset.from_list([ROWS[0], ROWS[1] | columns])


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        (
            _replaced(prompt=[{"role": "system", "content": "calm"}]),
            {"perturbed_tokens": "observation"},
            "Example 1 has no perturbable token.*perturbed_tokens",
        ),
        (dataset(2).remove_columns("action_costs"), {"system_loss": "expected_cost"}, "action_costs"),
        (_replaced(action_costs=[1.0]), {"system_loss": "expected_cost"}, "`action_costs` of example 1"),
        (_replaced(actions=["take 1"], action_costs=[1.0]), {"system_loss": "expected_cost"}, "at least two"),
        (
            _replaced(actions=["take 1 now", "take 1 or", "take 2"], action_costs=[1.0, 2.0, 3.0]),
            {"system_loss": "expected_cost"},
            "cannot distinguish them",
        ),
        (
            _replaced(completion=[{"role": "assistant", "content": "give 1"}]),
            {"system_loss": "expected_cost"},
            "completion of example 1 differs from all",
        ),
        (Dataset.from_dict({"text": ["take 1 via a", "take 2 via b"]}), {}, "In example 0 every token is an action"),
        (
            dataset(2),
            {"max_length": 5, "system_loss": "expected_cost"},
            "the first is example 0 .*none is left: raise `max_length`",
        ),
    ],
    ids=["no-observation", "no-costs", "few-costs", "one-action", "same-token", "other-start", "no-prompt", "cut-off"],
)
def test_data_that_cannot_be_trained_on_is_refused_before_training(tmp_path, data, overrides, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, data=data, **overrides)


def test_dropped_examples_are_reported(tmp_path, caplog):
    longer = copy.deepcopy(ROWS[0])
    longer["prompt"][0]["content"] += " now" * 50
    trainer(tmp_path, data=Dataset.from_list([ROWS[0], longer, ROWS[1]]), max_length=40)
    told = "1 of 3 examples are dropped (the first is example 1 of the train data), because with `max_length` = 40"
    assert told in caplog.text


def test_none_left_is_an_error_without_an_adversary_too(tmp_path):
    with pytest.raises(ValueError, match="2 of 2 examples are dropped .*none is left: raise `max_length`"):
        trainer(tmp_path, data=dataset(2), max_length=5, epsilon=0.0, regularizer="none")


@pytest.mark.parametrize("place", ["weights", "gradient"])
def test_a_non_finite_number_stops_the_run_before_the_weights_change(tmp_path, place):
    model = tiny_model()
    if place == "weights":
        model.lm_head.weight.data[3, 3] = float("nan")
    else:
        model.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"step 0.*(aajr/penalty = nan|gradient norm = nan)"):
        trainer(tmp_path, model).train()
    after = model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


class _NoForwardAD(torch.autograd.Function):
    """Attention of a kernel without forward-mode derivatives, as flash kernels are."""

    @staticmethod
    def forward(ctx, value):
        return value.mean(dim=2, keepdim=True).expand_as(value).clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.mean(dim=2, keepdim=True).expand_as(gradient).clone()


def _kernel(module, query, key, value, attention_mask, **kwargs):
    return _NoForwardAD.apply(value).transpose(1, 2).contiguous(), None


AttentionInterface.register("no_forward_ad", _kernel)


def _kernel_model():
    model = tiny_model(torch.float32)
    model.set_attn_implementation("no_forward_ad")
    return model


def test_a_kernel_without_jvp_falls_back_to_finite_differences_and_says_so(tmp_path, caplog):
    run = trainer(tmp_path, _kernel_model())
    assert run.estimator == "finite_difference"
    assert "central finite differences" in caplog.text
    run.train()
    assert run.state.log_history[0]["aajr/penalty"] > 0


def test_a_kernel_without_jvp_is_refused_where_exactness_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="`jacobian_estimator=jvp`.*attn_implementation"):
        trainer(tmp_path, _kernel_model(), jacobian_estimator="jvp")


def test_a_random_part_of_the_batch_is_refused_with_dropout(tmp_path):
    with pytest.raises(ValueError, match="penalty_fraction"):
        trainer(tmp_path, tiny_model(attention_dropout=0.1), penalty_fraction=0.5)


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=2, module_dropout=0.3),
        LoHaConfig(r=2, rank_dropout=0.3),
        LoKrConfig(r=2, module_dropout=0.3),
        BOFTConfig(boft_block_size=2, boft_dropout=0.3),
        LoraConfig(r=2, lora_dropout=0.3),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_whatever_makes_a_forward_random_is_seen(config):
    config.target_modules = ["q_proj"]
    model = get_peft_model(tiny_model(torch.float32), config).train()
    assert uses_dropout(model) and not uses_dropout(tiny_model().train())
    off = {
        name: 0.0
        for name in ("module_dropout", "rank_dropout", "boft_dropout", "lora_dropout")
        if hasattr(config, name)
    }
    calm = get_peft_model(tiny_model(torch.float32), dataclasses.replace(config, **off)).train()
    assert not uses_dropout(calm)


def test_noise_in_a_router_is_seen():
    size = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    experts = {"num_key_value_heads": 2, "num_local_experts": 2}
    for noise in (0.0, 0.1):
        model = MixtralForCausalLM(MixtralConfig(**size, **experts, router_jitter_noise=noise))
        assert uses_dropout(model) == (noise > 0)


def test_adapters_that_learn_a_prompt_are_refused(tmp_path):
    from peft import PromptTuningConfig

    with pytest.raises(ValueError, match="learn a prompt"):
        AAJRTrainer(
            tiny_model(torch.float32),
            AAJRConfig(**trainer_arguments(tmp_path)),
            train_dataset=dataset(),
            processing_class=copy.deepcopy(WORDS),
            peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        )
