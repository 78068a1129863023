"""What holds for tiny models with random weights holds for a real one: SmolLM2-135M-Instruct, as `aajr fetch` writes it."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.objective import directional_jacobian
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.policy.policy import AgentPolicy

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def agent(real_model):
    """The model on the CPU, where its numbers are the same everywhere, and its tokenizer, from the package's own loader."""
    model, tokenizer = load_agent(str(real_model))
    return model.cpu(), tokenizer


def answer(model, tokenizer, chat):
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_it_answers_a_question(agent):
    assert "Paris" in answer(*agent, QUESTION)


def test_its_tokenizer_renders_chats_and_splits_numbers(agent):
    _, tokenizer = agent
    assert len(tokenizer) == 49152 and (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    text = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\n") and text.endswith("France?<|im_end|>\n<|im_start|>assistant\n")
    # As in the repository on the Hub: digits are apart, and a space before them, too.
    assert tokenizer.tokenize("in 1234 days") == ["in", "Ġ", "1", "2", "3", "4", "Ġdays"]
    assert tokenizer.tokenize("a   12") == ["a", "ĠĠĠ", "1", "2"]


def test_the_folder_is_an_ordinary_one(real_model):
    assert {file.name for file in real_model.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    model = AutoModelForCausalLM.from_pretrained(real_model)
    assert model.num_parameters() == 134_515_008 and model.dtype == torch.float32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


ROW = {"prompt": QUESTION, "completion": [{"role": "assistant", "content": "Paris."}]}


def test_its_jvp_is_exact(agent):
    model, tokenizer = agent
    inputs = encode_examples(tokenizer, [ROW], candidates=False)
    policy = AgentPolicy(model, AgentBatch.from_inputs(inputs, "prompt"))
    state = policy.embeddings()
    direction = torch.randn_like(state) * policy.batch.perturbable[..., None]
    direction /= direction.norm()
    with torch.no_grad():
        _, exact = directional_jacobian(policy, torch.zeros_like(state), direction)
        # Wide: the logits' rounding is divided by it. A tenth of it gives ten times the error.
        step = 1e-2 * state.norm(dim=-1).mean()
        _, estimated = directional_jacobian(
            policy, torch.zeros_like(state), direction, estimator="finite_difference", difference_step=step
        )
    assert exact.isfinite().all() and exact.norm() > 1
    assert (exact - estimated).norm() / exact.norm() < 5e-3


def test_it_is_trained_for_a_step_with_an_exact_penalty(real_model, agent, tmp_path):
    _, tokenizer = agent
    config = AAJRConfig(
        str(tmp_path),
        epsilon=0.25,
        ascent_steps=1,
        regularizer_lambda=1e-4,
        learning_rate=1e-5,
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
    )
    run = AAJRTrainer(str(real_model), config, train_dataset=Dataset.from_list([ROW]), processing_class=tokenizer)
    run.train()
    logged = run.state.log_history[0]
    assert run.estimator == "jvp"
    assert all(math.isfinite(logged[name]) for name in ("loss", "grad_norm", "aajr/penalty", "aajr/amplification"))
    assert logged["aajr/penalty"] > 0 and logged["aajr/adversarial_loss"] > logged["aajr/clean_loss"]
