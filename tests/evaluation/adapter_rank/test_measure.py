"""What `aajr adapter-rank` measures, against full Jacobians and updates whose rank is known."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from rich.console import Console

from aajr_hf.evaluation.adapter_rank.measure import measure_rank, recommendation
from aajr_hf.evaluation.adapter_rank.report import rank_plot, rank_table
from aajr_hf.training.models.adapters import linear_layers
from tests.support.reference import MEASURES, Reference
from tests.support.tiny import dataset, tiny_model, trainer


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    model = tiny_model()
    base = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight += torch.randn(16, 3).double() @ torch.randn(3, 16).double()
    run = trainer(tmp_path_factory.mktemp("rank"), model, dataset(4))
    return run, base, measure_rank(run, base)


def naive(run, base, **settings):
    """The reference on a copy of the model, which it switches to another kernel."""
    model = copy.deepcopy(base)
    model.load_state_dict(run.model.state_dict())
    return Reference(model, run._prepare_inputs(next(iter(run.get_train_dataloader()))), **settings)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_full_jacobian(measured):
    run, base, result = measured
    reference = naive(run, base)
    gradients = reference.gradient(len(reference.examples) * reference.mean_penalty())
    assert result["penalty_gradient"].keys() == linear_layers(run.model).keys()
    for name, spectrum in result["penalty_gradient"].items():
        expected = torch.linalg.svdvals(gradients[f"{name}.weight"])
        found = torch.tensor(spectrum["singular_values"]).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected[0]))


@pytest.mark.slow
def test_the_gradient_is_that_of_the_penalty_as_configured(tmp_path):
    output, radius = "fisher", 2.0
    model = tiny_model()
    run = trainer(tmp_path, copy.deepcopy(model), dataset(4), penalty_output=output, penalty_radius=radius)
    result = measure_rank(run, model)
    reference = naive(run, model, penalty_radius=radius)
    penalty = reference.mean_penalty(squared=MEASURES[output])
    gradients = reference.gradient(len(reference.examples) * penalty)
    for name, spectrum in result["penalty_gradient"].items():
        found = torch.tensor(spectrum["singular_values"]).double()
        expected = torch.linalg.svdvals(gradients[f"{name}.weight"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected[0]))


@pytest.mark.slow
def test_directions_and_images_are_those_of_the_ascent(measured):
    run, base, result = measured
    reference = naive(run, base)
    directions, images = [], []
    for b in reference.examples:
        deltas, units = reference.ascend(b)
        for delta, unit in zip(deltas, units, strict=False):
            directions.append(unit[reference.prompt(b)[:, 0].bool()])
            image = reference.jacobian(b, delta, lambda z: z) @ unit.flatten()
            images.append(image.view(len(reference.example(b)[2]), -1))
    for name, rows in (("directions", directions), ("images", images)):
        expected = torch.linalg.svdvals(torch.cat(rows).detach())
        found = torch.tensor(result[name]["singular_values"]).double()
        assert result[name]["size"] == torch.cat(rows).shape[1]
        torch.testing.assert_close(found, expected[: len(found)], rtol=1e-5, atol=1e-5 * float(expected[0]))


def test_the_update_is_found_where_it_is(measured):
    _, _, result = measured
    assert list(result["update"]) == ["model.layers.0.self_attn.q_proj"]
    (update,) = result["update"].values()
    assert update["directions"]["99%"] <= 3 and update["coverage"]["4"] == pytest.approx(1)
    assert 1 < update["stable_rank"] <= 3


def test_the_table_and_the_plot(measured):
    _, _, result = measured
    console = Console(width=100, file=io.StringIO())
    console.print(rank_table(result))
    text = console.file.getvalue()
    assert "for 95%" in text and "update" in text and text.count("100.0%") >= 4
    assert rank_plot(result).startswith(b"\x89PNG")
    assert "update" not in {c.header for c in rank_table(result | {"update": {}}).columns}


def module(*shares, size=16):
    coverage = dict(zip(("1", "2", "4", "8", "16"), shares, strict=False))
    needed = next((int(r) for r, s in coverage.items() if s >= 0.95), None)
    return {"directions": {"95%": needed}, "coverage": coverage, "size": size}


def test_the_recommendation_is_about_the_worst_module():
    found = recommendation({"easy": module(0.96, 1.0), "hard": module(0.3, 0.5, 0.71, 0.9, 0.97)})
    assert (found["rank"], found["module"], found["smaller"], found["smaller_share"]) == (16, "hard", 8, 0.9)
    assert found["sentence"] == "Rank 16 covers 95% of the penalty's gradient in every module; rank 8 covers 90%."
    assert recommendation({"easy": module(0.96)})["smaller"] is None
    assert recommendation({"hard": module(0.3)})["rank"] is None
