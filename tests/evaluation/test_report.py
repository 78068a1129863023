import copy
import io
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from aajr_hf.evaluation import plots, report


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
    report.write_report(results, path.parent)
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


class TestWriteReport:
    def test_is_well_formed_and_loads_nothing_from_outside(self, results, tmp_path):
        parsed = page(results, tmp_path / "report.html")
        pictures = plots.draw_plots(results)
        assert parsed.open == [] and set(os.listdir(tmp_path)) == {"report.html", *pictures}
        assert {name: (tmp_path / name).read_bytes() for name in pictures} == pictures
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
            report.write_report(results, tmp_path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]
