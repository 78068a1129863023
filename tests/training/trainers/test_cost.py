"""What a step costs, in operations and in tensors: counted, never timed."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aajr_hf import AAJRTrainer
from tests.support.tiny import WORDS, assert_same_gradient, dataset, one_step, tiny_model, trainer

from ...support.cost import flops


@pytest.mark.slow
def test_sharing_the_ascents_forwards_changes_nothing_but_the_cost(tmp_path, monkeypatch):
    shared_cost = flops(tmp_path)
    shared, _ = one_step(tmp_path)
    monkeypatch.setattr(AAJRTrainer, "_shares_forwards", False)
    assert shared_cost < 0.97 * flops(tmp_path)
    assert_same_gradient(shared, one_step(tmp_path)[0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_cost_is_linear_in_the_number_of_steps(tmp_path, checkpointing):
    costs = [flops(tmp_path, ascent_steps=k, gradient_checkpointing=checkpointing) for k in (1, 2, 3)]
    steps = [later - earlier for earlier, later in zip(costs, costs[1:], strict=False)]
    assert steps[0] > 0 and steps == [steps[0]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        ({"penalty_trajectory": "sample"}, 1 / 3),
        ({"penalty_trajectory": "last"}, 1 / 3),
        ({"penalty_trajectory": "sample", "penalty_fraction": 0.5}, 1 / 6),
        ({"penalty_interval": 2, "max_steps": 2}, 1),
    ],
    ids=["one-point", "last-point", "half-the-batch", "every-second-step"],
)
def test_the_amortised_penalty_costs_its_share(tmp_path, monkeypatch, overrides, share):
    monkeypatch.setattr(AAJRTrainer, "_shares_forwards", False)
    without = flops(tmp_path, regularizer="none")
    penalty = flops(tmp_path) - without
    steps = overrides.get("max_steps", 1)
    # The penalised rows are padded to the longest of the whole batch, so rows cost alike.
    assert flops(tmp_path, **overrides) - steps * without == pytest.approx(share * penalty, rel=0.1)


class WidestLogits(TorchDispatchMode):
    """The most positions that any tensor over the vocabulary has."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.positions = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            # Weights over the vocabulary have the hidden size beside it.
            if isinstance(tensor, torch.Tensor) and self.vocabulary in tensor.shape and 16 not in tensor.shape:
                self.positions = max(self.positions, tensor.numel() // self.vocabulary)
        return output


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "checkpointing"), [("jvp", True), ("finite_difference", False)])
def test_nothing_spans_the_vocabulary_but_action_positions(tmp_path, estimator, checkpointing):
    """So the penalty's memory does not depend on the vocabulary elsewhere."""
    with WidestLogits(len(WORDS)) as widest:
        one_step(
            tmp_path,
            tiny_model(torch.float32, intermediate_size=48),
            jacobian_estimator=estimator,
            gradient_checkpointing=checkpointing,
            penalty_output="log_probs",
        )
    # 4 examples of 22 tokens, up to 8 of them actions.
    assert 0 < widest.positions <= 4 * 8


class NewTensors(TorchDispatchMode):
    """The operations that made a tensor of a shape, or of its transpose; a view is none."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape, self.operations = {shape, shape[::-1]}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) in self.shape and not func.is_view:
                self.operations.append(str(func))
        return output


@pytest.mark.parametrize(
    "overrides", [{"ascent_steps": 3}, {"gradient_checkpointing": True}, {"regularizer": "global_spectral"}]
)
def test_tied_embeddings_that_are_frozen_are_never_copied(tmp_path, overrides):
    vocabulary, hidden = 61, 28  # the sizes of nothing else
    model = tiny_model(torch.float32, vocab_size=vocabulary, hidden_size=hidden, tie_word_embeddings=True)
    run = trainer(
        tmp_path, model, dataset(16), max_steps=1, freeze_embeddings=True, clean_loss_weight=1.0, **overrides
    )
    with NewTensors(vocabulary, hidden) as copies:
        run.train()
    assert not copies.operations
