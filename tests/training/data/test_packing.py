"""Documents that share a row are trained as if each had its own."""

from __future__ import annotations

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.policy.policy import AgentPolicy
from aajr_hf.training.runs.nonfinite import read_dump
from aajr_hf.training.trainers.replay import replay
from tests.support.tiny import WORDS, assert_same_gradient, dataset, one_step, tiny_model, trainer

SMALL = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROWS = 6
ACTIVE = {"regularizer_lambda": 0.1, "clean_loss_weight": 0.5, "per_device_train_batch_size": ROWS}


def row(folder, **overrides):
    """All documents in one row."""
    settings = {"max_length": 1024, "packing": True, "per_device_train_batch_size": 1} | overrides
    return one_step(folder, data=dataset(ROWS), **ACTIVE | settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"perturbed_tokens": "observation", "perturbation_scope": "token", "perturbation_norm": "linf"},
        {"amplification_budget": 1.0, "penalty_output": "log_probs", "penalty_reduction": "token_mean"},
        {"jacobian_estimator": "finite_difference"},
        {"ascent_step_rule": "gradient", "penalty_trajectory": "last", "gradient_checkpointing": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "plain",
)
def test_a_packed_row_is_trained_as_its_documents(tmp_path, settings):
    expected, padded = one_step(tmp_path / "padded", data=dataset(ROWS), **ACTIVE | settings)
    gradient, metrics = row(tmp_path / "packed", **settings)
    tolerance = 1e-5 if "jacobian_estimator" in settings else 1e-9
    assert_same_gradient(gradient, expected, tolerance)
    for name in padded:
        if name.startswith("aajr/") or name in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
            assert metrics[name] == pytest.approx(padded[name], rel=tolerance), name
    assert metrics["aajr/penalty"] > 0


@pytest.mark.slow
def test_a_packed_rows_penalty_is_the_mean_of_its_documents_one_by_one(tmp_path):
    _, metrics = row(tmp_path / "packed")
    alone = [
        one_step(tmp_path / str(i), data=dataset(ROWS).select([i]), **ACTIVE | {"per_device_train_batch_size": 1})[1]
        for i in range(ROWS)
    ]
    for name in ("aajr/penalty", "aajr/amplification", "aajr/delta_norm", "aajr/embedding_norm"):
        values = [one[name] for one in alone]
        assert max(values) > min(values)
        assert metrics[name] == pytest.approx(sum(values) / ROWS, rel=1e-5), name


# The eager softmax is taken in fp32.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "tolerance", "drawn"),
    [("sdpa", 1e-9, {}), ("eager", 1e-4, {"penalty_trajectory": "sample", "penalty_fraction": 0.5})],
)
def test_padding_free_batches_and_padded_ones_give_one_trajectory(tmp_path, attention, tolerance, drawn):
    settings = ACTIVE | drawn | {"max_steps": 3, "learning_rate": 0.05, "system_loss": "expected_cost"}
    runs = []
    for padding_free in (False, True):
        model = tiny_model()
        model.set_attn_implementation(attention)
        run = trainer(tmp_path / str(padding_free), model, padding_free=padding_free, max_length=None, **settings)
        run.train()
        runs.append(model)
    for one, other in zip(*(model.parameters() for model in runs), strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)
    assert not torch.equal(runs[0].lm_head.weight, tiny_model().lm_head.weight)


def test_columns_are_packed_with_their_tokens(tmp_path):
    run = trainer(tmp_path, packing=True, max_length=96, perturbed_tokens="observation", regularizer_lambda=0.1)
    apart = trainer(tmp_path, max_length=96, perturbed_tokens="observation", regularizer_lambda=0.1)

    def documents(trainer):
        found = []
        for start in range(0, len(trainer.train_dataset), 2):
            rows = [trainer.train_dataset[i] for i in range(start, min(start + 2, len(trainer.train_dataset)))]
            batch = AgentBatch.from_inputs(trainer.data_collator(rows), "observation")
            for ids, mask, seen in zip(batch.input_ids, batch.attention_mask, batch.perturbable, strict=True):
                found.append((ids[mask.bool()].tolist(), seen[mask.bool()].tolist()))
        return sorted(found)

    assert len(run.train_dataset) < len(apart.train_dataset)
    assert documents(run) == documents(apart)
    assert any(True in seen for _, seen in documents(run))


def test_parts_of_a_packed_row_are_the_padded_documents(tmp_path):
    run = trainer(tmp_path, padding_free=True, max_length=None)
    batch = AgentBatch.from_inputs(run.data_collator([run.train_dataset[i] for i in range(4)]), "prompt")
    policy = AgentPolicy(run.model.eval(), batch)
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        expected, part = policy()[rows], policy.select(rows)
        assert part.batch.packed is None and torch.allclose(part(), expected, rtol=1e-10)
    assert policy.select(torch.arange(4)).batch is batch


def test_examples_that_are_cut_keep_what_was_observed_in_what_is_left(tmp_path):
    whole = trainer(tmp_path, perturbed_tokens="observation")
    length = min(len(row["input_ids"]) for row in whole.train_dataset) - 2
    with pytest.warns(FutureWarning, match="keep_end"):
        cut = trainer(tmp_path, perturbed_tokens="observation", max_length=length, truncation_mode="keep_end")
    for row, short in zip(whole.train_dataset, cut.train_dataset, strict=True):
        assert short["input_ids"] == row["input_ids"][-length:]
        assert short["observation_mask"] == row["observation_mask"][-length:] != row["observation_mask"][:length]


def test_a_model_that_mixes_documents_is_refused(tmp_path):
    bloom = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL | {"vocab_size": len(WORDS)}))
    with pytest.raises(
        ValueError, match="`packing` and `padding_free` to false.*Reason: the document before it changes"
    ):
        trainer(tmp_path, bloom, padding_free=True, max_length=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing_strategy": "wrapped"}, "`packing_strategy` must be bfd while AAJR is active with `packing`"),
        ({"packing_strategy": "bfd_split"}, "`packing_strategy` must be bfd"),
        ({"system_loss": "expected_cost"}, "`system_loss` must be nll while AAJR is active with `packing`"),
        ({"pad_to_multiple_of": 8}, "`pad_to_multiple_of` does not work with `packing`"),
        (
            {"packing": False, "truncation_mode": "keep_end", "system_loss": "expected_cost"},
            "`truncation_mode` must be keep_start while AAJR is active with `system_loss` expected_cost",
        ),
    ],
)
def test_settings_that_would_cut_documents_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **{"packing": True} | settings)


@pytest.mark.slow
def test_a_packed_step_that_is_not_finite_can_be_run_again(tmp_path):
    model = tiny_model(torch.float32)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    run = trainer(tmp_path, model, packing=True, max_length=256, save_strategy="no", regularizer_lambda=0.1)
    with pytest.raises(FloatingPointError):
        run.train()
    (folder,) = tmp_path.glob("_nonfinite-*")
    assert replay(folder).reproduced
    assert read_dump(folder)[0]["settings"]["packing"]
