"""Which tokens are observations, which token tells the candidates apart, and what the collator makes of them."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.training.data.batch import AgentBatch, action_logits
from aajr_hf.training.data.collation import distinguishing_tokens, encode_examples
from aajr_hf.training.models.base_agent import CHAT_TEMPLATE
from aajr_hf.training.policy.system_losses import expected_cost, nll
from tests.support.tiny import ROWS, TOKENIZER, WORDS, trainer


def test_the_distinguishing_token_is_the_first_that_differs():
    rendered = ["<|assistant|>take 1 via a", "<|assistant|>take 2 via a"]
    position, tokens = distinguishing_tokens(TOKENIZER, rendered[0], rendered, 0)
    assert [TOKENIZER.decode([token]) for token in tokens] == [" 1", " 2"]
    ids = TOKENIZER(rendered[1], add_special_tokens=False)["input_ids"]
    assert ids[position + 1] == tokens[1]


def test_action_logits_lie_before_their_tokens():
    labels = torch.tensor([[-100, -100, 7, 8, -100], [9, -100, -100, -100, 5]])
    positions, valid, targets = action_logits(labels)
    assert positions.tolist() == [[1, 2], [3, 0]]
    assert valid.tolist() == [[True, True], [True, False]]
    assert targets.tolist() == [[7, 8], [5, 0]]


def test_encoding_agrees_with_the_trainer(tmp_path):
    run = trainer(tmp_path, system_loss="expected_cost", perturbed_tokens="observation")
    prepared = run.data_collator([run.train_dataset[i] for i in range(4)])
    encoded = encode_examples(WORDS, ROWS[:4], candidates=True)
    for name, value in encoded.items():
        assert torch.equal(prepared[name], value), name
    assert prepared["observation_mask"].shape == prepared["input_ids"].shape


def test_losses_ignore_the_padding_of_actions_and_candidates():
    rows = [dict(ROWS[0]), dict(ROWS[1])]
    rows[0] |= {"actions": rows[0]["actions"][:3], "action_costs": rows[0]["action_costs"][:3]}
    torch.manual_seed(0)
    both = AgentBatch.from_inputs(encode_examples(TOKENIZER, rows, candidates=True), "prompt")
    logits = torch.randn(2, both.action_labels.shape[1], len(TOKENIZER), dtype=torch.float64)
    assert not both.action_mask.all() and not both.candidate_mask.all()
    for i, row in enumerate(rows):
        alone = AgentBatch.from_inputs(encode_examples(TOKENIZER, [row], candidates=True), "prompt")
        own = logits[i : i + 1, : alone.action_labels.shape[1]]
        assert nll(logits, both)[i] == pytest.approx(float(nll(own, alone)), rel=1e-12)
        assert expected_cost(logits, both)[i] == pytest.approx(float(expected_cost(own, alone)), rel=1e-12)


def test_the_expected_cost_is_a_mean_over_candidates():
    batch = AgentBatch.from_inputs(
        encode_examples(TOKENIZER, expert_rows("congestion", 3, seed=4), candidates=True), "prompt"
    )
    logits = torch.zeros(3, batch.action_labels.shape[1], len(TOKENIZER))
    assert torch.allclose(expected_cost(logits, batch), batch.candidate_costs.mean(dim=1))
    rows = torch.arange(3)
    logits[rows, batch.candidate_column, batch.candidate_tokens[:, 4]] = 50.0
    assert torch.allclose(expected_cost(logits, batch), batch.candidate_costs[:, 4], atol=1e-4)


def test_the_chat_template_marks_what_the_assistant_said():
    encoded = TOKENIZER.apply_chat_template(
        ROWS[0]["prompt"] + ROWS[0]["completion"], return_assistant_tokens_mask=True, return_dict=True
    )
    kept = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert TOKENIZER.decode(kept) == ROWS[0]["completion"][0]["content"] + "<|end|>"
    assert "generation" in CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("perturbed_tokens", "moved"),
    [("all", [[1, 1, 1, 0], [1, 1, 1, 1]]), ("prompt", [[1, 1, 0, 0], [1, 1, 1, 0]])],
)
def test_padding_is_never_perturbed(perturbed_tokens, moved):
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, 7, -100], [-100, -100, -100, 8]]),
    }
    assert AgentBatch.from_inputs(inputs, perturbed_tokens).perturbable.int().tolist() == moved
