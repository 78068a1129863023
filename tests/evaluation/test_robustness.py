"""One agent's numbers against decoding, sampling, full Jacobians and a grid search."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.attack import worst_case
from aajr_hf.evaluation.robustness import RobustnessSettings, evaluate_agent, nominal_success, success
from aajr_hf.objective import PerturbationSet
from aajr_hf.training.base_agent import train_tokenizer
from aajr_hf.training.batch import AgentBatch
from aajr_hf.training.data import encode_examples

ROWS = expert_rows("congestion", 6, seed=0, agents=3)
TEXTS = [m["content"] for row in ROWS for m in row["prompt"]] + [action for row in ROWS for action in row["actions"]]
TOKENIZER = train_tokenizer(TEXTS)
SMALL = RobustnessSettings(attack_steps=4, attack_restarts=2, batch_size=4, power_iterations=60)


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(TOKENIZER), num_key_value_heads=2, initializer_range=0.2, **sizes)
    return LlamaForCausalLM(config).eval()


def trained() -> LlamaForCausalLM:
    """A model that knows some of the rows by heart."""
    agent = model()
    inputs = encode_examples(TOKENIZER, ROWS[:3], candidates=False)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        agent(**inputs).loss.backward()
        optimizer.step()
    return agent


@pytest.fixture(scope="module")
def agent() -> LlamaForCausalLM:
    return trained()


def test_nominal_success_is_what_decoding_gives(agent):
    answered = 0
    for row in ROWS:
        prompt = TOKENIZER.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = agent.generate(**prompt, max_new_tokens=16, do_sample=False, eos_token_id=TOKENIZER.eos_token_id)
        text = TOKENIZER.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        answered += text == row["completion"][0]["content"]
    assert 0 < answered < len(ROWS)
    assert nominal_success(agent, TOKENIZER, ROWS) == pytest.approx(100 * answered / len(ROWS))


def test_sampled_success_is_the_probability_of_the_answer(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS[:1], candidates=True), "prompt")
    torch.manual_seed(0)
    logits = torch.randn(1, batch.action_labels.shape[1], len(TOKENIZER))
    logits.scatter_add_(2, batch.action_labels[..., None], torch.full_like(logits[..., :1], 8.0))
    _, probability = success(logits, batch)
    draws = torch.distributions.Categorical(logits=logits[0]).sample((20000,))
    frequency = (draws == batch.action_labels).all(dim=1).float().mean()
    assert 0.05 < probability.item() < 0.95
    assert probability.item() == pytest.approx(frequency.item(), abs=0.015)


def test_the_attack_keeps_the_best_point_it_has_seen():
    # A loss whose ascent overshoots: the last iterate of a large step is worse than one on the way.
    state = torch.zeros(3, 2, dtype=torch.float64)

    def loss(x):
        return -(x[:, 0] - 0.3).abs() + 0.01 * x[:, 1]

    ball = PerturbationSet(torch.full((3,), 2.0, dtype=torch.float64))
    mask = torch.ones(3, 2)
    delta, value = worst_case(loss, state, ball, mask=mask, steps=7, restarts=1)
    assert torch.equal(loss(delta), value)
    torch.manual_seed(0)
    _, more = worst_case(loss, state, ball, mask=mask, steps=7, restarts=5)
    assert (more >= value).all() and (more > value).any()
    assert (ball.norms(delta) <= 2).all()


def test_the_attack_finds_the_maximum_of_a_linear_loss():
    direction = torch.tensor([3.0, 4.0])
    ball = PerturbationSet(torch.tensor([0.5, 2.0]))
    _, value = worst_case(
        lambda x: x @ direction, torch.zeros(2, 2), ball, mask=torch.ones(2, 2), steps=20, restarts=1
    )
    assert value.tolist() == pytest.approx([2.5, 10.0], rel=1e-4)


def test_the_numbers_are_consistent_and_reproducible(agent):
    reported = []
    first = evaluate_agent(agent, TOKENIZER, ROWS, SMALL, lambda: reported.append(1))
    again = evaluate_agent(agent, TOKENIZER, ROWS, SMALL)
    assert first == again
    assert len(reported) == SMALL.progress_steps(len(ROWS)) == 8
    costs = [first["nominal_cost"], *(first["worst_case_cost"][m] for m in ("0.5", "1", "2"))]
    assert costs == sorted(costs) and costs[-1] > costs[0]
    assert first["worst_case_success"]["2"] <= first["nominal_success"]
    assert first["spectral_norm"] >= first["amplification"] > first["random_amplification"] > 0
    assert first["examples"] == len(ROWS)


def test_the_batch_size_does_not_matter_without_random_starts(agent):
    settings = [RobustnessSettings(attack_steps=3, attack_restarts=1, batch_size=size) for size in (2, 6)]
    one, other = (evaluate_agent(agent, TOKENIZER, ROWS, setting) for setting in settings)
    for name in ("nominal_success", "nominal_cost", "amplification", "embedding_norm"):
        assert one[name] == pytest.approx(other[name], rel=1e-3)


def test_the_spectral_norm_is_the_full_jacobians(agent):
    single = ROWS[:1]
    numbers = evaluate_agent(agent, TOKENIZER, single, SMALL)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, single, candidates=True), "prompt")
    eager = trained()
    eager.set_attn_implementation("eager")
    embeddings = eager.get_input_embeddings()(batch.input_ids).detach()

    def logits(x):
        return eager(inputs_embeds=x, use_cache=False).logits[0, batch.action_positions[0]]

    full = torch.func.jacfwd(logits)(embeddings)[:, :, 0][:, :, batch.perturbable[0]]
    expected = torch.linalg.svdvals(full.reshape(full.shape[0] * full.shape[1], -1))[0]
    assert numbers["spectral_norm"] == pytest.approx(expected.item(), rel=1e-3)
