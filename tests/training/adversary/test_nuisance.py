"""The regularizer `matched`: its mean on a linear policy, its limits, its estimate, and resumption."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from aajr_hf.environments import expert_rows
from aajr_hf.objective import random_unit_direction, squared_amplification
from aajr_hf.training.adversary.nuisance import coverage, factor_of, matched_direction
from tests.support.completions import grpo
from tests.support.tiny import dataset, one_step, tiny_model, trainer

DRAWS = 20_000


def mean_of(policy, directions):
    state = torch.zeros_like(directions)
    return float(squared_amplification(policy, state, directions).mean())


def linear(tokens=3, width=4, outputs=5):
    weight = torch.randn(outputs, tokens, width, dtype=torch.float64)
    return weight, lambda state: torch.einsum("otd,btd->bo", weight, state)


def draws(factor, tokens=3, width=4):
    like = torch.zeros(DRAWS, tokens, width, dtype=torch.float64)
    return matched_direction(factor, torch.ones(DRAWS, tokens, dtype=torch.bool), like)


def test_the_mean_on_a_linear_policy_is_the_trace():
    torch.manual_seed(0)
    weight, policy = linear()
    rows = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.5, 0.1])
    factor = factor_of(rows.T @ rows, 4)
    covariance = rows.T @ rows / torch.trace(rows.T @ rows)
    assert torch.allclose(factor @ factor.T, covariance)
    expected = sum(torch.trace(weight[:, t] @ covariance @ weight[:, t].T) for t in range(3)) / 3
    assert mean_of(policy, draws(factor)) == pytest.approx(float(expected), rel=0.05)


def test_isotropic_nuisance_is_a_random_direction_in_the_mean():
    torch.manual_seed(1)
    _, policy = linear()
    isotropic = mean_of(policy, draws(factor_of(torch.eye(4), 4)))
    unit = random_unit_direction(torch.zeros(DRAWS, 3, 4, dtype=torch.float64))
    assert isotropic == pytest.approx(mean_of(policy, unit), rel=0.05)


def test_one_direction_is_the_amplification_along_it():
    torch.manual_seed(2)
    weight, policy = linear(tokens=1)
    u = torch.nn.functional.normalize(torch.randn(4, dtype=torch.float64), dim=0)
    factor = factor_of(torch.outer(u, u), 3)
    expected = float((weight[:, 0] @ u).square().sum())
    assert mean_of(policy, draws(factor, tokens=1)) == pytest.approx(expected, rel=0.05)


def test_only_the_first_directions_are_kept_and_only_perturbable_tokens_move():
    moment = torch.diag(torch.tensor([4.0, 1.0, 9.0]))
    factor = factor_of(moment, 2)
    assert torch.allclose(factor @ factor.T, torch.diag(torch.tensor([4.0, 0.0, 9.0])).double() / 13)
    assert not factor_of(torch.zeros(3, 3), 2).any()
    mask = torch.tensor([[True, False, True]])
    direction = matched_direction(factor, mask, torch.zeros(1, 3, 3))
    assert direction[0, 0].any() and not direction[0, 1].any()


@pytest.mark.slow
def test_the_estimate_is_that_of_the_ascents_and_the_same_whenever_it_is_made(tmp_path):
    run = trainer(tmp_path, regularizer="matched", nuisance_rank=16, aajr_warmup_ratio=0.0)
    state = torch.get_rng_state()
    factor = run.nuisance_factor()
    assert torch.equal(torch.get_rng_state(), state) and run.nuisance_factor() is factor
    moment = torch.zeros(16, 16, dtype=torch.float64)
    for start in range(0, 16, 4):
        inputs = run.data_collator(list(run.train_dataset)[start : start + 4])
        ascent = run._ascend(run.model, run._system_loss(inputs, None), None)
        for directions in ascent.trajectory.directions:
            for row in directions[ascent.policy.batch.perturbable]:
                moment += torch.outer(row, row)
    assert torch.allclose(factor @ factor.T, moment / moment.trace(), atol=1e-5)
    for nuisance in ("answers", "random"):
        other = trainer(tmp_path, regularizer="matched", nuisance=nuisance, nuisance_rank=4).nuisance_factor()
        assert other.shape == (16, 4) and torch.trace(other @ other.T).item() == pytest.approx(1)
        if nuisance == "random":
            assert torch.allclose(other.T @ other, torch.eye(4).double() / 4, atol=1e-6)


def test_coverage_is_the_share_of_the_energy_in_the_range():
    moment = torch.diag(torch.tensor([4.0, 1.0, 9.0, 0.0]))
    assert coverage(factor_of(moment, 2), moment) == pytest.approx(13 / 14)
    assert coverage(factor_of(moment, 9), moment) == pytest.approx(1)
    assert coverage(factor_of(torch.diag(torch.tensor([0.0, 1.0, 0.0, 5.0])), 4), moment) == pytest.approx(1 / 14)
    assert coverage(factor_of(moment, 2), torch.zeros(4, 4)) == coverage(torch.zeros(4, 2), moment) == 0
    torch.manual_seed(0)
    random = [coverage(torch.linalg.qr(torch.randn(4, 2))[0], moment) for _ in range(2000)]
    assert sum(random) / len(random) == pytest.approx(0.5, abs=0.02)


def test_a_ridge_penalty_ends_drift_only_where_the_nuisance_is_covered():
    """`W = Cov(y, s) (Cov(s) + lambda S')^-1` minimises the task loss of a linear policy plus `lambda Tr(W S' W')`."""
    torch.manual_seed(3)
    signal = torch.randn(500, 6, dtype=torch.float64)
    nuisance = torch.randn(2, 6, dtype=torch.float64)
    states = signal + 2 * torch.randn(500, 2, dtype=torch.float64) @ nuisance
    answers = signal[:, :2]
    task, wrong = nuisance.T @ nuisance, torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
    ranges = {"whole": factor_of(task, 2), "half": factor_of(task, 1), "wrong": factor_of(wrong @ wrong.T, 2)}
    assert coverage(ranges["whole"], task) == pytest.approx(1)
    assert all(coverage(ranges[name], task) < 0.95 for name in ("half", "wrong"))

    def solved(factor, weight):
        return torch.linalg.solve(states.T @ states / 500 + weight * factor @ factor.T, states.T @ answers / 500)

    def drift(factor, weight):
        policy = solved(factor, weight)
        return float((policy.T @ task @ policy).trace())

    def error(factor, weight):
        return float((states @ solved(factor, weight) - answers).square().mean())

    assert drift(ranges["whole"], 1e6) < 1e-6 * drift(ranges["whole"], 0)
    for name in ("half", "wrong"):  # the rest of the nuisance stays
        assert drift(ranges[name], 1e6) > 0.02 * drift(ranges[name], 0)
        assert drift(ranges[name], 1e12) == pytest.approx(drift(ranges[name], 1e6), rel=1e-3)
    # A penalty along the signal hurts: less is learnt than with one along the nuisance.
    of_signal = factor_of(torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0])), 2)
    assert error(of_signal, 1e6) > 1.5 * error(ranges["whole"], 1e6)


def test_the_estimate_from_variants_is_the_covariance_of_their_differences(tmp_path):
    data = expert_rows("congestion", 12, seed=0, agents=3, variants=4)
    data[3]["variants"] += ["too long a text to be compared"]
    run = trainer(tmp_path, data=Dataset.from_list(data), regularizer="matched", nuisance="variants", nuisance_rank=16)
    embeddings = run.model.get_input_embeddings().weight.double()
    moment = torch.zeros(16, 16, dtype=torch.float64)
    for row in data:
        before, *after = (
            run.processing_class(text)["input_ids"] for text in [row["prompt"][0]["content"], *row["variants"]]
        )
        for ids in (ids for ids in after if len(ids) == len(before)):
            for one, other in zip(before, ids, strict=True):
                moment += torch.outer(embeddings[other] - embeddings[one], embeddings[other] - embeddings[one])
    factor = run.nuisance_factor()
    assert moment.trace() > 1 and torch.allclose(factor @ factor.T, moment / moment.trace(), atol=1e-9)
    assert "variants" not in run.train_dataset.column_names


@pytest.mark.slow
def test_the_estimate_from_variants_is_the_same_for_packed_and_for_streamed_rows(tmp_path):
    rows = Dataset.from_list(expert_rows("congestion", 40, seed=0, agents=3, variants=2))
    of_variants = {
        "regularizer": "matched",
        "nuisance": "variants",
        "regularizer_lambda": 0.1,
        "aajr_warmup_ratio": 0.0,
    }
    factors = []
    for data, more in ((rows, {}), (rows.to_iterable_dataset(), {}), (rows, {"packing": True, "max_length": 128})):
        run = trainer(tmp_path, data=data, **of_variants | more)
        run.train()
        assert run.state.log_history[0]["aajr/penalty"] > 0
        factors.append(run.nuisance_factor())
    assert torch.equal(factors[0], factors[1]) and torch.equal(factors[0], factors[2])


def test_the_estimate_from_variants_at_a_layer_is_that_of_its_states(tmp_path):
    data = expert_rows("congestion", 2, seed=0, agents=3, variants=1)
    at_layer = {"regularizer": "matched", "nuisance": "variants", "nuisance_rank": 16, "perturbed_layer": 1}
    run = trainer(tmp_path, data=Dataset.from_list(data), **at_layer)
    moment = torch.zeros(16, 16, dtype=torch.float64)
    for row in data:
        states = []
        for text in (row["prompt"][0]["content"], row["variants"][0]):
            said = [{"role": "user", "content": text}, *row["completion"]]
            ids = run.processing_class.apply_chat_template(said, return_tensors="pt", return_dict=True)["input_ids"]
            states.append(run.model(ids, output_hidden_states=True).hidden_states[1][0].detach())
        whole = run.processing_class.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        for one, other in zip(*(state[: len(whole)] for state in states), strict=True):
            moment += torch.outer(other - one, other - one)
    factor = run.nuisance_factor()
    assert torch.allclose(factor @ factor.T, moment / moment.trace(), atol=1e-9)


def test_variants_that_are_missing_or_have_no_effect_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="`nuisance` variants: none of the first 32 rows has .*set `nuisance` to ascent"
    ):
        trainer(tmp_path, regularizer="matched", nuisance="variants")
    rows = [row | {"variants": ["quite another text"]} for row in dataset(4)]
    run = trainer(tmp_path, data=Dataset.from_list(rows), regularizer="matched", nuisance="variants")
    with pytest.raises(ValueError, match="`nuisance` variants: no variant has as many tokens as its row"):
        run.nuisance_factor()
    with pytest.raises(ValueError, match="`triggers` must be None .* with `nuisance` variants"):
        trainer(tmp_path, regularizer="matched", nuisance="variants", triggers="none.jsonl")


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_with_the_same_covariance(tmp_path):
    settings = {
        "regularizer": "matched",
        "nuisance_rank": 4,
        "regularizer_lambda": 0.1,
        "ascent_steps": 1,
        "max_steps": 4,
    }
    settings |= {"optim": "adamw_torch", "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path, tiny_model(torch.float32), dataset(16), **settings)
    whole.train()
    assert whole.state.log_history[0]["aajr/penalty"] > 0
    again = trainer(tmp_path, tiny_model(torch.float32, seed=1), dataset(16), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_without_lambda_nothing_changes_and_what_does_not_work_is_refused(tmp_path):
    none, _ = one_step(tmp_path, regularizer="none")
    zero, _ = one_step(tmp_path, regularizer="matched", regularizer_lambda=0.0)
    assert all(torch.equal(none[name], zero[name]) for name in none)
    with pytest.raises(ValueError, match="`regularizer` matched works only with SFT"):
        grpo(tmp_path, tiny_model(torch.float32), regularizer="matched")
    run = trainer(tmp_path, regularizer="matched")
    run.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="`regularizer` matched does not work with FSDP"):
        run._check_support()
