"""The floor under sensitivity: its directions, its value and gradient against a full Jacobian, and its limits."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.training.adversary.ascent import ascend
from aajr_hf.training.adversary.sensitivity import directions_to_other_answers, sensitivity
from tests.support.reference import Reference
from tests.support.tiny import assert_same_gradient, dataset, one_step, tiny_model, trainer


def attacked(folder, model=None, **settings):
    run = trainer(folder, model, dataset(4), **settings)
    inputs = run.data_collator(list(run.train_dataset))
    system = run._system_loss(inputs, None)
    return run, inputs, ascend(run.args, system.policy(run.model, None), system, 1.0, keep_products=False)


def answers(batch):
    return [tuple(labels[mask].tolist()) for labels, mask in zip(batch.action_labels, batch.action_mask, strict=True)]


def test_directions_lead_to_an_observation_with_another_answer(tmp_path):
    _, _, ascent = attacked(tmp_path)
    state, batch = ascent.state, ascent.policy.batch
    right, seen = answers(batch), set()
    for seed in range(20):
        torch.manual_seed(seed)
        for b, direction in enumerate(directions_to_other_answers(state, batch)):
            assert float(direction.norm()) == pytest.approx(1)
            towards = []
            for other in range(4):
                both = batch.perturbable[b] & batch.perturbable[other]
                line = torch.where(both[:, None], state[other] - state[b], torch.zeros_like(state[b]))
                if line.norm() > 0 and torch.allclose(direction, line / line.norm()):
                    towards.append(other)
            assert len(towards) == 1 and right[towards[0]] != right[b]
            seen.add((b, towards[0]))
    assert len(seen) == sum(one != other for one in right for other in right)  # each is drawn


def test_without_another_answer_there_is_no_direction(tmp_path):
    _, _, ascent = attacked(tmp_path)
    alike = ascent.policy.batch.select(torch.tensor([1, 1, 1]))
    assert not directions_to_other_answers(ascent.state[[1, 2, 3]], alike).any()
    # Nor between observations that are alike.
    assert not directions_to_other_answers(ascent.state[[1, 1, 1, 1]], ascent.policy.batch).any()


def test_value_and_gradient_are_those_of_the_full_jacobian(tmp_path):
    model = tiny_model()
    run, inputs, ascent = attacked(tmp_path, model)
    rows = torch.tensor([2, 0, 3])
    names, parameters = zip(*model.named_parameters(), strict=True)
    torch.manual_seed(1)
    directions = directions_to_other_answers(ascent.state, ascent.policy.batch)
    reference = Reference(model, inputs)
    sizes = []
    for b in rows.tolist():
        length = int(inputs["attention_mask"][b].sum())
        full = reference.jacobian(b, torch.zeros_like(ascent.state[b, :length]), lambda z: z)
        sizes.append((full @ directions[b, :length].flatten()).norm())
    sizes = torch.stack(sizes)
    floor = float(sizes.detach().median()) + 1e-3  # some are below the floor, some above
    run.args.sensitivity_floor = floor
    torch.manual_seed(1)
    found = sensitivity(run.args, ascent, rows, estimator="jvp", difference_step=None)
    gradient = torch.autograd.grad(found.shortfall, parameters)
    expected = (floor - sizes).clamp_min(0).square().mean()
    assert 0 < (sizes < floor).sum() < 3
    # The model's norms are computed in float32.
    assert found.shortfall.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.mean.item() == pytest.approx(sizes.mean().item(), rel=1e-6)
    assert_same_gradient(dict(zip(names, gradient, strict=True)), reference.gradient(expected), 1e-4)


def same(left, right) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_floor_of_zero_changes_nothing_and_between_floor_and_budget_nothing_is_penalised(tmp_path):
    plain, log = one_step(tmp_path)
    zero, _ = one_step(tmp_path, sensitivity_floor=0.0)
    assert same(zero, plain) and "aajr/sensitivity" not in log
    none, _ = one_step(tmp_path, regularizer="none")
    settings = {"amplification_budget": 1e3, "regularizer_lambda": 1.0, "penalty_trajectory": "sample"}
    band, log = one_step(tmp_path, sensitivity_floor=1e-3, **settings)
    assert log["aajr/sensitivity"] > 1e-3 and log["aajr/sensitivity_shortfall"] == 0 == log["aajr/penalty"]
    assert all(torch.allclose(band[name], none[name], rtol=1e-12, atol=1e-14) for name in none)
    below, log = one_step(tmp_path, sensitivity_floor=500.0, **settings)
    assert log["aajr/sensitivity_shortfall"] > 0 and not all(torch.allclose(below[n], none[n]) for n in none)


def test_a_large_floor_makes_the_agent_more_sensitive(tmp_path):
    settings = {"max_steps": 6, "learning_rate": 1e-2, "optim": "adamw_torch", "regularizer_lambda": 1.0, "seed": 3}
    settings |= {"amplification_budget": 1e4, "aajr_warmup_ratio": 0.0, "ascent_steps": 1}
    found = []
    for floor in (1e-6, 50.0):
        run = trainer(tmp_path, tiny_model(torch.float32), sensitivity_floor=floor, **settings)
        run.train()
        found.append(run.state.log_history[5]["aajr/sensitivity"])
    assert found[1] > 1.2 * found[0]
