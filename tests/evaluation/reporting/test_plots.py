import io
import sys

import matplotlib.image
import pytest
from matplotlib.text import Annotation, Text

from aajr_hf.evaluation.reporting import plots
from tests.support.results import draw, make_run


class TestDrawPlots:
    @pytest.mark.slow
    def test_draws_four_pictures_without_pyplot(self, results):
        sys.modules.pop("matplotlib.pyplot", None)
        images = plots.draw_plots(results)
        assert list(images) == ["worst_case.png", "trade_off.png", "amplification.png", "ray.png"]
        for image in images.values():
            picture = matplotlib.image.imread(io.BytesIO(image))
            assert picture.shape[1] >= 1200 and (picture[0, 0, :3] == 1).all() and picture.std() > 0.05
        assert "matplotlib.pyplot" not in sys.modules

    def test_lines_start_at_the_nominal_success(self, results):
        greedy, sampled = draw(plots._draw_worst_case, results).axes
        solid, dashed = greedy.lines[3], sampled.lines[3]
        assert list(solid.get_xdata()) == pytest.approx([0, 0.25, 0.5, 1], abs=0.05)
        assert list(solid.get_ydata()) == [81.3, 78.1, 74.7, 70.1]
        assert list(dashed.get_ydata()) == [72.6, 73.1, 69.7, 65.1] and solid.get_color() == dashed.get_color()
        assert len({line.get_xdata()[0] for line in greedy.lines}) == 4  # beside each other

    def test_every_share_has_its_interval(self, results):
        greedy, sampled = draw(plots._draw_worst_case, results).axes
        for axes, field in ((greedy, "worst_case_success"), (sampled, "sampled_worst_case_success")):
            for bars, run in zip(axes.collections, results["runs"].values(), strict=True):
                drawn = [segment[:, 1].tolist() for segment in bars.get_segments()]
                assert drawn[1:] == [pytest.approx(interval) for interval in run["intervals"][field].values()]
        across, up = draw(plots._draw_trade_off, results).axes[0].collections[-2:]
        intervals = results["runs"]["aajr"]["intervals"]
        assert across.get_segments()[0][:, 0].tolist() == pytest.approx(intervals["nominal_success"])
        assert up.get_segments()[0][:, 1].tolist() == pytest.approx(intervals["worst_case_success"]["1"])

    @pytest.mark.slow
    def test_the_ray_shows_success_and_nll_with_a_line_at_the_radius_of_training(self, results):
        del results["runs"]["sft"]["ray"]
        left, right = draw(plots._draw_ray, results).axes
        assert len(left.lines) == len(right.lines) == 4 and len(left.collections) == 3
        ray = results["runs"]["aajr"]["ray"]
        assert list(left.lines[2].get_ydata()) == ray["success"] and list(left.lines[2].get_xdata())[-1] == 3.0
        assert list(right.lines[2].get_ydata()) == ray["nll"]
        assert all(list(axes.lines[3].get_xdata()) == [1.0, 1.0] for axes in (left, right))

    @pytest.mark.slow
    def test_one_colour_per_run_in_all_plots(self, results):
        legend = {}
        for function in (plots._draw_worst_case, plots._draw_bars, plots._draw_ray):
            drawn = draw(function, results).legends[0]
            for text, handle in zip(drawn.get_texts(), drawn.legend_handles, strict=True):
                color = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
                legend.setdefault(text.get_text(), set()).add(matplotlib.colors.to_hex(color))
        for line, name in zip(draw(plots._draw_trade_off, results).axes[0].lines, results["runs"], strict=True):
            legend[name].add(matplotlib.colors.to_hex(line.get_color()))
        legend.pop("radius of training")
        assert list(legend) == list(results["runs"]) and all(len(colors) == 1 for colors in legend.values())
        assert len(set.union(*legend.values())) == len(results["runs"])

    @pytest.mark.parametrize("spread", [0.0, 0.3, 5.0])
    def test_labels_of_equal_points_do_not_overlap(self, results, spread):
        names = [*results["runs"], "global_spectral", "random_direction", "org/" + "long-name-" * 8, "$a$b$", "_last"]
        results["runs"] = {
            name: make_run(99 - spread * i, 98, (90, 80, 70 + spread * i)) for i, name in enumerate(names)
        }
        axes = draw(plots._draw_trade_off, results).axes[0]
        labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
        boxes = [Text.get_window_extent(label) for label in labels]
        assert len(boxes) == len(names)
        points = axes.transData.transform([line.get_xydata()[0] for line in axes.lines])
        for i, box in enumerate(boxes):
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
            assert not any(box.contains(*point) for point in points)

    @pytest.mark.slow
    def test_any_name_is_a_legend_entry(self, results):
        # A dollar starts a formula, which fails if it is none; an underscore hides an entry in matplotlib 3.9.
        results["runs"] = {r"$\no_formula$": results["runs"]["sft"], "_underscore": results["runs"]["aajr"]}
        for function, others in (
            (plots._draw_worst_case, 0),
            (plots._draw_bars, 0),
            (plots._draw_ray, 1),
            (plots._draw_trade_off, None),
        ):
            figure = draw(function, results)
            if others is not None:
                assert len(figure.legends[0].get_texts()) == 2 + others

    def test_bars_hold_zero_and_log_scale(self, results):
        results["runs"]["aajr"]["random_amplification"] = 0.0
        axes = draw(plots._draw_bars, results).axes[0]
        assert axes.get_yscale() == "log" and len(axes.patches) == 12
        assert [patch.get_height() for patch in axes.patches[:3]] == [155.0, 155.0 / 20, 155.0 * 1.7]
        assert axes.get_ylim()[0] < 117.0 / 20 and axes.get_ylim()[1] > 161.0 * 1.7
