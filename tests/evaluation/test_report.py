import copy
import io
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from rich.console import Console

from aajr_hf.evaluation import report


def make_run(nominal, sampled, worst, *, amplification=10.0, seconds=None, examples=512):
    multiples = ("0.5", "1", "2")
    return {
        "nominal_success": nominal,
        "sampled_success": sampled,
        "nominal_cost": 0.251,
        "worst_case_success": dict(zip(multiples, worst, strict=True)),
        "sampled_worst_case_success": {m: w - 5.0 for m, w in zip(multiples, worst, strict=True)},
        "worst_case_cost": {m: 0.361 * float(m) for m in multiples},
        "amplification": amplification,
        "random_amplification": amplification / 20,
        "spectral_norm": amplification * 1.7,
        "embedding_norm": 0.29,
        "train_seconds": seconds,
        "examples": examples,
    }


@pytest.fixture
def results():
    base = make_run(100.0, 97.3, (59.2, 41.1, 29.3), amplification=155.0)
    del base["train_seconds"]
    return {
        "runs": {
            "base": base,
            "sft": make_run(99.9, 98.1, (58.2, 40.1, 28.3), amplification=161.0, seconds=400.0),
            "adversarial": make_run(99.6, 94.4, (67.2, 62.0, 49.2), amplification=117.0, seconds=1200.0),
            "aajr": make_run(81.3, 72.6, (78.1, 74.7, 70.1), amplification=4.03, seconds=3000.0),
        },
        "train_epsilon": 0.4,
        "settings": {
            "attack_steps": 20,
            "attack_restarts": 3,
            "examples": 512,
            "seed": 7,
            "environment": "congestion",
        },
    }


def piped(table, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


class Page(HTMLParser):
    """Tags left open, every attribute, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def page(results, path):
    report.write_report(results, path)
    return Page(path.read_text(encoding="utf-8"))


class TestResultsTable:
    def test_piped_rows_hold_every_number_on_one_line(self, results):
        lines = piped(report.results_table(results)).splitlines()
        rows = {line.split()[0]: line for line in lines if line.strip()}
        assert "%" in rows["run"] and "worst 2x" in lines[0]
        assert re.split(r"\s{1,}(?!\()", rows["adversarial"].strip()) == [
            *("adversarial", "99.6 (94.4)", "67.2 (62.2)", "62.0 (57.0)", "49.2 (44.2)"),
            *("0.251", "117", "5.85", "199", "1200"),
        ]
        assert rows["base"].rstrip().endswith(" -") and rows["base"].startswith("base ")
        assert max(map(len, lines)) <= 100 and "…" not in "".join(lines)

    def test_a_narrow_terminal_loses_no_digit(self, results):
        text = piped(report.results_table(results), width=80)
        assert "…" not in text
        for number in ("99.6", "(94.4)", "70.1", "(65.1)", "4.03", "3000"):
            assert number in text

    def test_best_success_is_bold_ties_included(self, results):
        results["runs"]["sft"]["nominal_success"] = 99.96  # shown as 100, as is the base agent's
        columns = [list(column.cells) for column in report.results_table(results).columns]
        bold = [[str(cell.style) == "bold" for cell in column] for column in columns]
        assert bold[1] == [True, True, False, False]
        assert bold[2] == bold[3] == bold[4] == [False, False, False, True]
        assert not any(any(column) for column in [bold[0], *bold[5:]])

    def test_shows_names_as_they_are_and_diverged_runs(self, results):
        results["runs"] = {"[bold]x[/bold]": results["runs"]["aajr"], "broken": results["runs"]["sft"]}
        results["runs"]["broken"]["nominal_success"] = math.nan
        text = piped(report.results_table(results))
        assert "[bold]x[/bold]" in text and "nan (98.1)" in text

    def test_columns_follow_the_multiples_in_order(self, results):
        for run in results["runs"].values():
            for field in ("worst_case_success", "sampled_worst_case_success", "worst_case_cost"):
                run[field] = {"10": 1.0, "2": 2.0}
        header = piped(report.results_table(results)).splitlines()[0]
        assert re.findall(r"worst \S+", header) == ["worst 2x", "worst 10x"]


class TestSummarySentences:
    def test_names_gain_loss_and_time(self, results):
        first, second, third, leader, chance = report.summary_sentences(results)
        assert first == (
            "aajr against adversarial: attacked at 2x the training radius it gains 20.9 points of success (70.1 "
            "against 49.2%; sampled +20.9, 65.1 against 44.2%); without attack it loses 18.3 points of success (81.3 "
            "against 99.6%; sampled -21.8, 72.6 against 94.4%); training took 2.50 times as long (3000 against 1200 s)."
        )
        assert "aajr against sft" in second and "7.50 times as long" in second
        assert "aajr against base" in third and "times as long" not in third and "training took 3000 s" in third
        assert "Most robust" in leader and "aajr" in leader and "70.1%" in leader
        assert "512 examples" in chance and "6.1 points" in chance

    def test_a_loss_is_called_a_loss(self, results):
        runs = results["runs"]
        runs["aajr"], runs["adversarial"] = runs["adversarial"], runs["aajr"]
        first, *_, leader, _ = report.summary_sentences(results)
        attacked, calm = first.split("without attack")
        assert "loses 20.9 points" in attacked and not re.search(r"\bgains\b", attacked)
        assert "gains 18.3 points" in calm and "loses" not in calm
        assert "0.400 times as long" in calm
        assert "adversarial" in leader and "aajr" not in leader

    def test_a_tie_is_neither(self, results):
        results["runs"]["aajr"] = copy.deepcopy(results["runs"]["adversarial"])
        first, *_, leader, _ = report.summary_sentences(results)
        assert first.count("keeps its success") == 2 and not re.search(r"\b(gains|loses)\b", first)
        assert "adversarial" in leader and "aajr" in leader

    def test_without_the_usual_names(self, results):
        runs = results["runs"]
        results["runs"] = {"one": runs["adversarial"], "two": runs["sft"]}
        leader, _ = report.summary_sentences(results)
        assert "one" in leader and "49.2%" in leader and "two" not in leader
        results["runs"] = {"aajr": runs["aajr"]}
        assert len(report.summary_sentences(results)) == 1


class TestWriteJson:
    def test_round_trip(self, results, tmp_path):
        report.write_json(results, tmp_path / "new" / "results.json")
        assert json.loads((tmp_path / "new" / "results.json").read_text()) == results
        assert os.listdir(tmp_path / "new") == ["results.json"]

    @pytest.mark.parametrize("stage", ["write", "rename"])
    def test_interruption_leaves_the_old_file(self, results, tmp_path, monkeypatch, stage):
        path = tmp_path / "results.json"
        path.write_text("old")

        def half(self, content):
            with open(self, "wb") as file:
                file.write(content[: len(content) // 2])
            raise KeyboardInterrupt

        def refuse(source, target):
            raise KeyboardInterrupt

        if stage == "write":
            monkeypatch.setattr(Path, "write_bytes", half)
        else:
            monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(KeyboardInterrupt):
            report.write_json(results, path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("write", [report.write_json, report.write_plots, report.write_report])
class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "high"])
    @pytest.mark.parametrize("field", ["nominal_success", "spectral_norm", "worst_case_cost.2"])
    def test_names_run_and_field_and_writes_nothing(self, results, tmp_path, write, field, bad):
        name, _, multiple = field.partition(".")
        run = results["runs"]["aajr"]
        if multiple:
            run[name][multiple] = bad
        else:
            run[name] = bad
        with pytest.raises(ValueError, match=f"'aajr', field '{field}'"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_radius_that_one_run_lacks(self, results, tmp_path, write):
        del results["runs"]["sft"]["sampled_worst_case_success"]["1"]
        with pytest.raises(ValueError, match="'sft', field 'sampled_worst_case_success.1'"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_seconds_and_settings(self, results, tmp_path, write):
        broken = copy.deepcopy(results)
        broken["runs"]["sft"]["train_seconds"] = math.nan
        with pytest.raises(ValueError, match="'sft', field 'train_seconds'"):
            write(broken, tmp_path / "out")
        results["settings"]["learning_rate"] = math.inf
        with pytest.raises(ValueError, match="learning_rate"):
            write(results, tmp_path / "out")
        assert os.listdir(tmp_path) == []

    def test_no_runs(self, results, tmp_path, write):
        with pytest.raises(ValueError, match="no runs"):
            write(results | {"runs": {}}, tmp_path / "out")


def draw(function, results):
    figure = Figure(figsize=(5.6, 4.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    function(figure, results)
    figure.canvas.draw()
    return figure


class TestWritePlots:
    def test_writes_three_pictures_without_pyplot(self, results, tmp_path):
        sys.modules.pop("matplotlib.pyplot", None)
        paths = report.write_plots(results, tmp_path / "plots")
        assert [path.name for path in paths] == ["worst_case.png", "trade_off.png", "amplification.png"]
        assert sorted(os.listdir(tmp_path / "plots")) == sorted(path.name for path in paths)
        for path in paths:
            picture = matplotlib.image.imread(path)
            assert picture.shape[1] >= 1200 and (picture[0, 0, :3] == 1).all() and picture.std() > 0.05
        assert "matplotlib.pyplot" not in sys.modules

    def test_lines_start_at_the_nominal_success(self, results):
        axes = draw(report._draw_worst_case, results).axes[0]
        solid, dashed = axes.lines[6], axes.lines[7]
        assert list(solid.get_xdata()) == [0, 0.5, 1, 2] and list(solid.get_ydata()) == [81.3, 78.1, 74.7, 70.1]
        assert list(dashed.get_ydata()) == [72.6, 73.1, 69.7, 65.1] and solid.get_linestyle() == "-"
        assert dashed.get_linestyle() != "-" and solid.get_color() == dashed.get_color()

    def test_one_colour_per_run_in_all_plots(self, results):
        legend = {}
        for function in (report._draw_worst_case, report._draw_bars):
            drawn = draw(function, results).legends[0]
            for text, handle in zip(drawn.get_texts(), drawn.legend_handles, strict=True):
                color = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
                legend.setdefault(text.get_text(), set()).add(matplotlib.colors.to_hex(color))
        for line, name in zip(draw(report._draw_trade_off, results).axes[0].lines, results["runs"], strict=True):
            legend[name].add(matplotlib.colors.to_hex(line.get_color()))
        legend.pop("sampled (dashed)")
        assert list(legend) == list(results["runs"]) and all(len(colors) == 1 for colors in legend.values())
        assert len(set.union(*legend.values())) == len(results["runs"])

    @pytest.mark.parametrize("spread", [0.0, 0.3, 5.0])
    def test_labels_of_equal_points_do_not_overlap(self, results, spread):
        names = [*results["runs"], "global_spectral", "random_direction", "org/" + "long-name-" * 8, "$a$b$", "_last"]
        results["runs"] = {
            name: make_run(99 - spread * i, 98, (90, 80, 70 + spread * i)) for i, name in enumerate(names)
        }
        axes = draw(report._draw_trade_off, results).axes[0]
        labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
        boxes = [Text.get_window_extent(label) for label in labels]
        assert len(boxes) == len(names)
        points = axes.transData.transform([line.get_xydata()[0] for line in axes.lines])
        for i, box in enumerate(boxes):
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
            assert not any(box.contains(*point) for point in points)

    def test_any_name_is_a_legend_entry(self, results):
        # A dollar starts a formula, which fails if it is none; an underscore hides an entry in matplotlib 3.9.
        results["runs"] = {r"$\no_formula$": results["runs"]["sft"], "_underscore": results["runs"]["aajr"]}
        for function, others in ((report._draw_worst_case, 1), (report._draw_bars, 0), (report._draw_trade_off, None)):
            figure = draw(function, results)
            if others is not None:
                assert len(figure.legends[0].get_texts()) == 2 + others

    def test_bars_hold_zero_and_log_scale(self, results):
        results["runs"]["aajr"]["random_amplification"] = 0.0
        axes = draw(report._draw_bars, results).axes[0]
        assert axes.get_yscale() == "log" and len(axes.patches) == 12
        assert [patch.get_height() for patch in axes.patches[:3]] == [155.0, 155.0 / 20, 155.0 * 1.7]
        assert axes.get_ylim()[0] < 117.0 / 20 and axes.get_ylim()[1] > 161.0 * 1.7


class TestWriteReport:
    def test_is_well_formed_and_loads_nothing_from_outside(self, results, tmp_path):
        parsed = page(results, tmp_path / "report.html")
        assert parsed.open == [] and os.listdir(tmp_path) == ["report.html"]
        links = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset", "data", "action")]
        assert len(links) == 3 and all(link.startswith("data:image/png;base64,iVBOR") for link in links)
        raw = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "script" not in parsed.tags and "link" not in parsed.tags
        assert "url(" not in raw and "@import" not in raw and "http" not in raw
        assert all(any((tag, n) == ("img", "alt") and v for tag, n, v in parsed.attributes) for _ in links)

    def test_holds_every_number_sentence_and_setting(self, results, tmp_path):
        text = page(results, tmp_path / "report.html").text
        for run in results["runs"].values():
            for value in run.values():
                for number in value.values() if isinstance(value, dict) else [value]:
                    assert number is None or json.dumps(number) in text
        table = text[text.index("Results") : text.index("Plots")]
        for cell in ("81.3 (72.6)", "70.1 (65.1)", "4.03", "3000", "0.251"):
            assert cell in table
        for sentence in report.summary_sentences(results):
            assert sentence in text
        settings = text[text.index("Settings") :]
        for name, value in {"train_epsilon": 0.4, **results["settings"]}.items():
            assert re.search(rf"{name}\s*{value}\b", settings)

    def test_explains_every_column(self, results, tmp_path):
        text = page(results, tmp_path / "report.html").text
        meaning = text[text.index("What the columns mean") :]
        for first, second in report._cells(results)[0][1:]:
            assert f"{re.sub('worst .*', 'worst Nx', first)} {second}" in meaning

    def test_escapes_names_and_settings(self, results, tmp_path):
        results["runs"]["<script>alert(1)</script>"] = results["runs"].pop("sft")
        results["settings"]["note"] = '<img src=x onerror=alert(1)> & "more"'
        parsed = page(results, tmp_path / "report.html")
        assert "script" not in parsed.tags and parsed.tags.count("img") == 3
        assert "<script>alert(1)</script>" in parsed.text and '<img src=x onerror=alert(1)> & "more"' in parsed.text

    def test_interruption_leaves_the_old_page(self, results, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("old")

        def refuse(source, target):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            report.write_report(results, path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]
