"""
Architectures that users train: two steps of each, and the penalty that is logged against the full Jacobian of a copy in
float64 (`reference.py`). Tiny models with random weights, wide ones: with the usual ones a model is nearly linear.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.policy.policy import AgentPolicy
from tests.support.reference import Reference
from tests.support.tiny import WORDS, assert_same_gradient, dataset, trainer

_SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": WORDS.pad_token_id,
    "bos_token_id": None,
    "eos_token_id": WORDS.eos_token_id,
}
_GROUPED = {"num_key_value_heads": 1}
_GEMMA = _GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
_EXPERTS = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}

# Name -> (model type, overrides of `_SIZES`; None removes a field that the family calls by another name).
FAMILIES = {
    "llama": ("llama", _GROUPED),
    "llama-tied": ("llama", _GROUPED | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 8}),
    "qwen3-moe": ("qwen3_moe", _EXPERTS | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16}),
    "mixtral": ("mixtral", _EXPERTS),
    "gpt-oss": ("gpt_oss", _EXPERTS | {"head_dim": 8, "sliding_window": 4}),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 4}),
    # Caps so low that they bind.
    "gemma2": ("gemma2", _GEMMA | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0}),
    "gemma3": ("gemma3_text", _GEMMA),
    "phi3": ("phi3", _GROUPED),
    "smollm3": ("smollm3", _GROUPED),
    "gpt2": ("gpt2", {"intermediate_size": None, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt-neox": ("gpt_neox", _NO_DROPOUT),
    "opt": ("opt", {"intermediate_size": None, "ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "olmo2": ("olmo2", _GROUPED),
    "stablelm": ("stablelm", _GROUPED),
    "falcon": ("falcon", _NO_DROPOUT | {"intermediate_size": None}),
    "cohere": ("cohere", _GROUPED | {"logit_scale": 0.25}),
    "granite": ("granite", _GROUPED | {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "lfm2": ("lfm2", _GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "bloom": ("bloom", _NO_DROPOUT | {"intermediate_size": None, "n_head": 2, "n_layer": 2}),
}
# Bloom's GELU is a function of its own, without forward mode.
ESTIMATED = ("bloom",)


def model_of(family: str, dtype: torch.dtype = torch.float32, **overrides):
    model_type, own = FAMILIES[family]
    fields = {name: value for name, value in (_SIZES | own).items() if value is not None}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields), **overrides).to(dtype)


def run_and_reference(folder, model, examples=2, **overrides):
    """A trainer after its run, and the oracle of its first step."""
    original = copy.deepcopy(model).double()
    original.set_experts_implementation("eager")  # a grouped product takes no float64
    settings = {"ascent_steps": 2, "per_device_train_batch_size": 2, "max_grad_norm": 1.0, "learning_rate": 1e-3}
    run = trainer(folder, model, dataset(examples), **settings | overrides)
    torch.manual_seed(run.args.seed)
    inputs = next(iter(run.get_train_dataloader()))
    run.train()
    return run, Reference(original, inputs, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_trains_with_the_penalty_of_the_full_jacobian(tmp_path, family):
    model = model_of(family)
    before = copy.deepcopy(model.state_dict())
    run, reference = run_and_reference(tmp_path, model, max_steps=2)
    estimated = family in ESTIMATED
    assert run.estimator == ("finite_difference" if estimated else "jvp")
    logs = [log for log in run.state.log_history if "aajr/penalty" in log]
    assert len(logs) == 2 and all(math.isfinite(log["loss"]) and log["aajr/penalty"] > 0 for log in logs)
    assert logs[0]["aajr/penalty"] == pytest.approx(
        float(reference.mean_penalty().detach()), rel=1e-3 if estimated else 1e-5
    )
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_heads_tied_and_untied_receive_the_whole_gradient(tmp_path, tied):
    model = model_of("llama-tied" if tied else "llama", torch.float64)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run, reference = run_and_reference(tmp_path, model, learning_rate=1.0, max_grad_norm=0.0, regularizer_lambda=0.01)
    found = {name: before[name] - parameter.detach() for name, parameter in run.model.named_parameters()}
    expected = reference.mean(reference.adversarial) + 0.01 * reference.mean_penalty()
    assert_same_gradient(found, reference.gradient(expected), 1e-5)


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite"])
def test_logits_are_those_that_the_model_emits(tmp_path, family):
    """Soft caps and scales come after the LM head, before which all but the action positions are dropped."""
    model = model_of(family).eval()
    run = trainer(tmp_path, model, dataset(2), per_device_train_batch_size=2)
    inputs = next(iter(run.get_train_dataloader()))
    batch = AgentBatch.from_inputs(inputs, "prompt")
    states = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, output: states.append(output))
    with torch.no_grad():
        logits = AgentPolicy(model, batch)()
        handle.remove()
        whole = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = whole.gather(1, batch.action_positions[..., None].expand(-1, -1, whole.shape[-1]))
    mask = batch.action_mask
    torch.testing.assert_close(logits[mask], expected[mask])
    assert states[0].shape == logits.shape and (states[0][mask] - logits[mask]).abs().max() > 0.1


def _fused(*args, **kwargs):
    """PyTorch's flash attention, which the CPU has, too: no forward mode, as with the flash kernels of GPUs."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa_attention_forward(*args, **kwargs)


# Without "flash" in their name, for which transformers would look for a package.
AttentionInterface.register("fused_on_the_cpu", _fused)
AttentionMaskInterface.register("fused_on_the_cpu", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@pytest.mark.parametrize("attention", ["eager", "sdpa", "fused_on_the_cpu"])
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_attention_kernels(tmp_path, caplog, family, attention):
    model = model_of(family, attn_implementation=attention)
    run, reference = run_and_reference(tmp_path, model)
    fused = attention == "fused_on_the_cpu"
    assert run.estimator == ("finite_difference" if fused else "jvp")
    assert ("load the model with `attn_implementation` sdpa or eager" in caplog.text) == fused
    found = run.state.log_history[0]["aajr/penalty"]
    assert found == pytest.approx(float(reference.mean_penalty().detach()), rel=1e-3 if fused else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "checkpointing"), [("eager", False), ("grouped_mm", False), ("grouped_mm", True)], ids=str
)
def test_mixtures_of_experts_are_exact(tmp_path, implementation, checkpointing):
    """Whichever way the experts run: grouped products have no forward mode, also where a layer is recomputed."""
    model = model_of("qwen3-moe", experts_implementation=implementation)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {"learning_rate": 1.0, "max_grad_norm": 0.0, "gradient_checkpointing": checkpointing}
    run, reference = run_and_reference(tmp_path, model, 1, router_aux_loss_coef=0.0, **settings)
    assert run.estimator == "jvp" and model.config._experts_implementation == implementation
    assert run.state.log_history[0]["aajr/penalty"] == pytest.approx(
        float(reference.mean_penalty().detach()), rel=1e-5
    )
    found = {name: before[name] - parameter.detach() for name, parameter in run.model.named_parameters()}
    expected = reference.gradient(reference.mean(reference.adversarial) + 1e-3 * reference.mean_penalty())
    assert_same_gradient(found, expected, 1e-4)


_TEXT = {name: value for name, value in _SIZES.items() if name != "initializer_range"} | _GROUPED
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_IMAGES = {"image_size": 8, "patch_size": 4}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
# Name -> (configuration of the parts, what to load instead)
WRAPPERS = {
    "gemma3": (
        {"text_config": _TEXT | {"head_dim": 8}, "vision_config": _VISION | _IMAGES, "mm_tokens_per_image": 1},
        "such as a Gemma3ForCausalLM",
    ),
    "llava": (
        {
            "text_config": _TEXT | {"model_type": "llama"},
            "vision_config": _VISION | _IMAGES | {"model_type": "clip_vision_model", "projection_dim": 16},
            "image_token_index": 3,
        },
        "such as a LlamaForCausalLM",
    ),
    "qwen2_vl": (
        {
            "text_config": _TEXT | {"rope_parameters": _MROPE},
            "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4},
        },
        "to a text-only model.",
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_multi_modal_wrappers_are_refused(tmp_path, name):
    parts, instead = WRAPPERS[name]
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **parts))
    with pytest.raises(ValueError, match=rf"reads more than text \({name}\).*{instead}") as refusal:
        trainer(tmp_path, model, dataset(2))
    assert "\n" not in str(refusal.value)
