"""The stability of the inner ascent on held-out rows, against the formulas written out; its table, page and plots."""

from __future__ import annotations

import copy
import io
import json
import math
from dataclasses import replace

import matplotlib.image
import pytest
import torch

from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.reporting import report, stability_plots
from aajr_hf.evaluation.reporting.stability_report import stability_cells, stability_sentences, stability_tables
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from tests.support.no_drawing import draw_nothing
from tests.support.pages import page, piped
from tests.support.results import draw
from tests.support.small_agents import ROWS, SMALL, TOKENIZER, trained

# The attacks have no part in this.
FEW = replace(SMALL, attacks=("nll",))


@pytest.fixture(scope="module")
def agent():
    return trained().double()


def explicit(agent, row, steps, epsilon):
    """One row's numbers, step by step, with the curvature of the last segment, too."""
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, [row], candidates=True), "prompt")
    target = Target(agent, batch)
    radius = epsilon * float(target.scale)

    def at(delta):
        point = delta.clone().requires_grad_(True)
        cost = target.cost(point)
        (gradient,) = torch.autograd.grad(cost.sum(), point)
        with torch.no_grad():
            return float(cost), gradient * batch.perturbable[..., None], target.policy(delta)

    delta, found = (
        target.origin,
        {"curvature": [], "amplification": [], "step_size": [], "monotone": [], "boundary": []},
    )
    cost, gradient, logits = at(delta)
    for _ in range(steps):
        further = delta + 2.5 * radius / steps * gradient / gradient.norm()
        further = further * min(1, radius / float(further.norm()))
        d, before, old, z = further - delta, cost, gradient, logits
        delta, (cost, gradient, logits) = further, at(further)
        found["curvature"].append(float((d * (gradient - old)).sum() / d.square().sum()))
        found["amplification"].append(float((logits - z).norm() / d.norm()))
        found["step_size"].append(2.5 * radius / steps / float(old.norm()))
        found["monotone"].append(100.0 * (cost >= before))
        found["boundary"].append(100.0 * (float(delta.norm()) > 0.999 * radius))
    costs = torch.tensor(row["action_costs"])
    found["loss_smoothness"] = float(costs.max() - costs.min()) / 2
    return found


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_the_numbers_of_one_row_are_the_formulas(agent, steps):
    numbers = evaluate_agent(agent, TOKENIZER, ROWS[3:4], replace(FEW, ascent_steps=steps))["stability"]
    expected = explicit(agent, ROWS[3], steps, FEW.threat.epsilon)
    for name in ("curvature", "amplification", "step_size"):
        # Of one example all quartiles are its value.
        wanted = [pytest.approx([value] * 3, rel=1e-5) for value in expected[name]]
        assert numbers["per_step"][name] == wanted, name
    first = expected["loss_smoothness"] * max(expected["amplification"]) ** 2
    curvature = max(map(abs, expected["curvature"]))
    assert curvature > 0
    examples = {name: values[1] for name, values in numbers["per_example"].items()}
    assert examples == pytest.approx(
        {
            "largest_absolute_curvature": curvature,
            "largest_amplification": max(expected["amplification"]),
            "largest_step_size": max(expected["step_size"]),
            "loss_smoothness": expected["loss_smoothness"],
            "residual": max(curvature - first, 0),
            "effective_smoothness": max(curvature, first),
            "step_size_bound": 1 / max(curvature, first),
        },
        rel=1e-5,
    )
    shares = numbers["shares"]
    assert shares["monotone"] == expected["monotone"] and shares["at_boundary"] == expected["boundary"]
    assert shares["within_bound"] == [100.0 * (eta <= 1 / max(curvature, first)) for eta in expected["step_size"]]
    assert shares["within_curvature"] == [100.0 * (eta <= 1 / curvature) for eta in expected["step_size"]]


@pytest.mark.slow
def test_all_examples_count_alike_whatever_the_batches(agent):
    """Quartiles and shares are of the rows' own numbers."""
    steps = FEW.ascent_steps
    several = [evaluate_agent(agent, TOKENIZER, ROWS, replace(FEW, batch_size=size))["stability"] for size in (4, 6)]
    assert len(ROWS) == 6
    rows = [explicit(agent, row, steps, FEW.threat.epsilon) for row in ROWS]
    for numbers in several:
        for name in ("curvature", "amplification", "step_size"):
            values = torch.tensor([row[name] for row in rows]).T.double()
            levels = torch.tensor([0.25, 0.5, 0.75]).double()
            for t in range(steps):
                assert numbers["per_step"][name][t] == pytest.approx(values[t].quantile(levels).tolist(), rel=1e-4)
        monotone = torch.tensor([row["monotone"] for row in rows]).mean(dim=0).tolist()
        assert numbers["shares"]["monotone"] == pytest.approx(monotone)


@pytest.mark.slow
def test_where_the_ball_is_small_the_steps_within_the_measured_curvature_rise(agent):
    """There the curvature hardly changes along a segment: the condition decides."""
    numbers = evaluate_agent(agent, TOKENIZER, ROWS, replace(FEW, threat=ThreatModel(epsilon=0.02), multiples=(1.0,)))[
        "stability"
    ]
    assert numbers["monotone_within_curvature"] == 100


class TestReport:
    def test_one_row_for_each_run_that_was_measured(self, stable_results):
        headers, rows = stability_cells(stable_results)
        assert len(headers) == 12 and [row[0] for row in rows] == ["adversarial", "aajr"]
        numbers = ["1.50", "3.50", "20.0", "0.00", "980", "2.6e-4", "0.150"]
        assert rows[1][1:] == [*numbers, "0.0", "100", "95.0", "66.7"]
        lines = piped(*stability_tables(stable_results), width=80).splitlines()
        assert max(map(len, lines)) <= 80 and any("1960" in line and "25.0" in line for line in lines)

    def test_sentences_say_how_often_the_condition_held(self, stable_results):
        first, second = stability_sentences(stable_results)
        assert first == (
            "adversarial: 0.0% of the steps have η ≤ 1/L_eff, 25.0% of the steps have η ≤ 1/max |κ| (the loss did not fall in "
            "98.0% of these); the loss did not fall in 95.0% of all steps."
        )
        assert second.startswith("aajr: ") and "100% of the steps have η ≤ 1/max |κ|" in second

    @pytest.mark.slow
    def test_the_page_shows_it_and_says_what_is_not_proven(self, stable_results, tmp_path, monkeypatch):
        draw_nothing(monkeypatch)
        parsed = page(stable_results, tmp_path / "report.html")
        assert parsed.open == [] and parsed.tags.count("img") == 7
        for text in (
            *stability_sentences(stable_results),
            "What is measured, estimated or proven",
            "2.5 / 3 times",
        ):
            assert text in parsed.text
        for header, _ in zip(*stability_cells(stable_results), strict=False):
            assert header[0] in parsed.text and header[1] in parsed.text

    @pytest.mark.slow
    def test_without_it_nothing_is_said(self, results, tmp_path, monkeypatch):
        draw_nothing(monkeypatch)
        assert stability_tables(results) == [] and stability_plots.draw_stability(results) == {}
        assert "Stability" not in page(results, tmp_path / "report.html").text

    @pytest.mark.parametrize("write", [report.write_json, report.write_report])
    def test_a_number_that_is_not_finite_is_refused_by_its_path(self, stable_results, tmp_path, write):
        stable_results["runs"]["aajr"]["stability"]["per_step"]["curvature"][1][2] = math.nan
        with pytest.raises(ValueError, match=r"'aajr', field 'stability\.per_step\.curvature\.1\.2'"):
            write(stable_results, tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_json_round_trip(self, stable_results, tmp_path):
        report.write_json(stable_results, tmp_path / "results.json")
        assert json.loads((tmp_path / "results.json").read_text()) == stable_results


class TestPlots:
    @pytest.mark.slow
    def test_three_pictures_beside_the_others(self, stable_results, tmp_path):
        report.write_report(stable_results, tmp_path)
        names = {"stability_curvature.png", "stability_steps.png", "stability_shares.png"}
        assert {path.name for path in tmp_path.glob("stability_*")} == names and len(list(tmp_path.glob("*.png"))) == 7
        for name in names:
            picture = matplotlib.image.imread(io.BytesIO((tmp_path / name).read_bytes()))
            assert picture.std() > 0.05

    def test_lines_are_medians_and_levels_those_of_the_whole_ascent(self, stable_results):
        axes = draw(stability_plots._draw_step_sizes, stable_results).axes[0]
        steps, bound, measured = axes.lines[:3]
        assert list(steps.get_ydata()) == [0.1, 0.2, 0.3] and axes.get_yscale() == "log"
        assert set(bound.get_ydata()) == {5.1e-4} and set(measured.get_ydata()) == {1 / 3}
        assert steps.get_color() == bound.get_color() == measured.get_color() and len(axes.lines) == 6

    def test_colours_are_those_of_the_other_plots_and_no_curvature_is_a_gap(self, stable_results):
        axes = draw(stability_plots._draw_curvature, stable_results).axes[0]
        assert list(axes.lines[0].get_ydata()[:2]) == [3.0, 1.0] and math.isnan(axes.lines[0].get_ydata()[2])
        assert [axes.lines[0].get_color(), axes.lines[2].get_color()] == ["#009E73", "#CC79A7"]

    @pytest.mark.slow
    def test_a_loss_that_is_flat_everywhere_is_drawn(self, stable_results):
        for run in ("adversarial", "aajr"):
            flat = stable_results["runs"][run]["stability"]
            flat["per_step"]["absolute_curvature"] = [[0.0] * 3] * 3
            flat["per_example"] |= {"largest_absolute_curvature": [0.0] * 3, "effective_smoothness": [0.0] * 3}
        assert len(stability_plots.draw_stability(copy.deepcopy(stable_results))) == 3

    @pytest.mark.slow
    def test_shares_are_drawn_step_by_step(self, stable_results):
        figure = draw(stability_plots._draw_shares, stable_results)
        assert len(figure.axes) == 4 and list(figure.axes[1].lines[0].get_ydata()) == [0.0, 25.0, 50.0]
