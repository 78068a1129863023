import copy
import json
import math
import os
import re
from pathlib import Path

import pytest

from aajr_hf.evaluation.reporting import plots, report
from aajr_hf.training.sharing.reading import threat_model_line

from ...support.no_drawing import draw_nothing
from ...support.pages import page, piped


class TestResultsTable:
    def test_piped_rows_hold_every_share_with_its_interval_on_one_line(self, results):
        lines = piped(report.results_table(results)).splitlines()
        greedy, cost = (line for line in lines if line.startswith("adversarial"))
        sampled = lines[lines.index(greedy) + 1]
        assert "worst 1x" in lines[0] and lines[1].count("% [95 %]") == 4
        assert re.split(r"\s+(?!\[)", greedy.strip()) == [
            *("adversarial", "greedy", "99.6 [99-100]", "67.2 [64-70]", "62.0 [59-65]", "49.2 [46-52]")
        ]
        assert re.split(r"\s+(?!\[)", sampled.strip()) == [
            *("sampled", "94.4 [93-96]", "62.2 [59-65]", "57.0 [54-60]", "44.2 [41-47]")
        ]
        assert cost.split() == ["adversarial", "0.251", "117", "5.85", "199", "1200"]
        assert any(line.startswith("base ") and line.rstrip().endswith(" -") for line in lines)
        assert "Threat model: l2 ball over the whole prompt, radius 1x = 0.4 mean embedding norms." in " ".join(lines)

    def test_five_runs_and_three_radii_fit_100_columns(self, results):
        results["runs"]["global_spectral"] = copy.deepcopy(results["runs"]["sft"])
        results["runs"]["a-name-of-24-letters-long"[:24]] = results["runs"].pop("base")
        lines = piped(report.results_table(results)).splitlines()
        assert max(map(len, lines)) <= 100 and "…" not in "".join(lines)
        assert any(
            line.startswith("a-name-of-24-letters-lon  greedy    100 [100-100]  59.2 [56-62]") for line in lines
        )

    def test_a_narrow_terminal_loses_no_digit(self, results):
        text = piped(report.results_table(results), width=70)
        assert "…" not in text
        for number in ("99.6", "[99-100]", "70.1", "[67-73]", "65.1", "4.03", "3000"):
            assert number in text

    def test_best_success_is_bold_ties_included(self, results):
        results["runs"]["sft"]["nominal_success"] = 99.96  # shown as 100, as is the base agent's
        _, rows = report.success_cells(results)
        bold = [[best for _, best in row[2:]] for row in rows if row[1][0] == "greedy"]
        assert bold == [[True, False, False, False]] * 2 + [[False] * 4, [False, True, True, True]]
        assert [best for _, best in rows[3][2:]] == [True, False, False, False]
        table = report.results_table(results).renderables[0]
        assert [str(cell.style) == "bold" for cell in list(table.columns)[2].cells][::2] == [True, True, False, False]

    def test_shows_names_as_they_are_and_diverged_runs(self, results):
        results["runs"] = {"[bold]x[/bold]": results["runs"]["aajr"], "broken": results["runs"]["sft"]}
        results["runs"]["broken"]["nominal_success"] = math.nan
        text = piped(report.results_table(results))
        assert "[bold]x[/bold]" in text and "nan [" in text and "98.1 [97-99]" in text

    def test_columns_follow_the_multiples_in_order(self, results):
        for run in results["runs"].values():
            for field in ("worst_case_success", "sampled_worst_case_success", "worst_case_cost"):
                run[field] = {"10": 1.0, "2": 2.0}
        header = piped(report.results_table(results)).splitlines()[0]
        assert re.findall(r"worst \S+", header) == ["worst 2x", "worst 10x"]


class TestSummarySentences:
    def test_names_trust_gain_loss_and_time(self, results):
        trust, first, second, third, leader = report.summary_sentences(results)
        assert trust == "The success under attack can be trusted: every run passes all checks of the attack."
        assert first == (
            "aajr against adversarial, attacked at 1x the training radius: success 70.1 against 49.2%, 20.9 points more "
            "(95 %: 16.6 to 25.1; p < 0.001); sampled 65.1 against 44.2%, 20.9 points more (95 %: 18.8 to 22.9). "
            "Without attack: 81.3 against 99.6%, 18.3 points less (95 %: 15.8 to 20.7; p < 0.001); sampled 72.6 against "
            "94.4%, 21.8 points less (95 %: 20.8 to 22.8). Training took 2.50 times as long (3000 against 1200 s)."
        )
        assert "aajr against sft" in second and "7.50 times as long" in second
        assert "aajr against base" in third and "times as long" not in third and "Training took 3000 s" in third
        assert leader == (
            "Most robust at 1x the training radius, with 70.1% [67-73] success: aajr (sampled 65.1%; 81.3% without attack); "
            "20.9 points ahead of adversarial (95 %: 16.6 to 25.1; p < 0.001)."
        )

    def test_differences_are_paired_by_example(self, results):
        ours = results["runs"]["aajr"]["outcomes"]["worst_case_success"]["1"]
        theirs = results["runs"]["adversarial"]["outcomes"]["worst_case_success"]
        shuffled = report.summary_sentences(results)[1]
        theirs["1"] = [float(i < 492 and won) for i, won in enumerate(sorted(ours, reverse=True))]
        results["runs"]["aajr"]["outcomes"]["worst_case_success"]["1"] = sorted(ours, reverse=True)
        nested = report.summary_sentences(results)[1]
        assert "20.9 points more (95 %: 18.3 to 23.4; p < 0.001)" in nested and nested != shuffled

    def test_a_loss_is_called_a_loss(self, results):
        runs = results["runs"]
        runs["aajr"], runs["adversarial"] = runs["adversarial"], runs["aajr"]
        _, first, *_, leader = report.summary_sentences(results)
        attacked, calm = first.split("Without attack")
        assert "20.9 points less (95 %: 16.6 to 25.1" in attacked and " more" not in attacked
        assert "18.3 points more" in calm and " less" not in calm and "0.400 times as long" in calm
        assert "success: adversarial" in leader and "aajr" in leader.split("ahead of")[1]

    def test_a_tie_is_neither(self, results):
        results["runs"]["aajr"] = copy.deepcopy(results["runs"]["adversarial"])
        _, first, *_, leader = report.summary_sentences(results)
        assert first.count("0.0 points more (95 %: -0.3 to 0.3; p = 1.000)") == 2
        assert "adversarial" in leader and "aajr" in leader and "ahead" not in leader

    def test_without_the_usual_names(self, results):
        runs = results["runs"]
        results["runs"] = {"one": runs["adversarial"], "two": runs["sft"]}
        _, leader = report.summary_sentences(results)
        assert "success: one" in leader and "49.2%" in leader and "20.9 points ahead of two" in leader
        results["runs"] = {"aajr": runs["aajr"]}
        trust, leader = report.summary_sentences(results)
        assert trust == "The success under attack can be trusted: aajr passes all checks of the attack."
        assert "ahead" not in leader


class TestTrust:
    def test_says_which_run_fails_which_check_and_why(self, results):
        failed = results["runs"]["adversarial"]["trust"]
        failed[0] |= {"passed": False, "detail": "5 of 256 examples"}
        assert report.summary_sentences(results)[0] == (
            'Do not trust the success under attack of adversarial, which fails the check "random points break no more than '
            'PGA" (5 of 256 examples); the other runs pass all checks.'
        )
        failed[1] |= {"passed": False, "detail": "much " * 40}
        results["runs"] = {"adversarial": results["runs"]["adversarial"], "sft": results["runs"]["sft"]}
        results["runs"]["sft"]["trust"] = []
        (sentence, *_) = report.summary_sentences(results)
        assert 'and "more steps break little more" (much much' in sentence and "…)" in sentence
        assert sentence.endswith("nor of sft, which was not checked.") and len(sentence) < 400

    @pytest.mark.slow
    def test_a_run_that_answers_nothing_without_attack_is_named_first(self, results):
        def first(*lost):
            some = copy.deepcopy(results)
            for name, share in lost:
                some["runs"][name]["nominal_success"] = share
            return report.summary_sentences(some)

        trusted = "The success of the other runs under attack can be trusted: they pass all checks of the attack."
        assert first(("sft", 4.9))[0] == (
            "sft answers almost no observation correctly, even without attack (4.9%), so its success under attack says "
            f"nothing. {trusted}"
        )
        (several, *_) = first(("sft", 0.0), ("adversarial", 1.0))
        one, two = (name for name in results["runs"] if name in ("sft", "adversarial"))
        assert several.startswith(f"{one} and {two} answer almost no observation correctly, even without attack (")
        assert "so their success under attack says nothing. The success" in several
        assert "almost no" not in first(("sft", 5.0))[0]
        names = list(results["runs"])
        assert first(*((name, 0.0) for name in names[1:]))[0].endswith(
            f" The success of {names[0]} under attack can be trusted: it passes all checks of the attack."
        )
        alone = first(*((name, 0.0) for name in names))
        assert alone[0].endswith("says nothing.") and not any("Most robust" in sentence for sentence in alone)
        # Whether the others can be trusted is said as before.
        results["runs"]["adversarial"]["trust"] = []
        assert first(("sft", 0.0))[0].endswith(
            "Do not trust the success under attack of adversarial, which was not checked; the other runs pass all checks."
        )

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            (
                {"perturbation_norm": "linf", "perturbation_scope": "token"},
                "l-infinity ball around each token of the whole",
            ),
            (
                {"perturbed_tokens": "observation"},
                "l2 ball over the observation, radius 1x = 0.4 mean embedding norms.",
            ),
            (
                {"perturbed_tokens": "all", "epsilon_mode": "absolute"},
                "all tokens, radius 1x = 0.4 in the embeddings' own",
            ),
        ],
    )
    def test_the_threat_model_is_one_line(self, results, change, line):
        results["threat_model"] = results["threat_model"] | change
        assert line in threat_model_line(results)


class TestWriteJson:
    def test_round_trip(self, results, tmp_path):
        report.write_json(results, tmp_path / "new" / "results.json")
        text = (tmp_path / "new" / "results.json").read_text()
        assert json.loads(text) == results and len(text.splitlines()) < 1500
        assert os.listdir(tmp_path / "new") == ["results.json"]

    def test_lists_of_numbers_are_one_line_and_strings_are_left_alone(self):
        values = {"a": [1.5, -2e-9, 3], "b": [], "c": "[ 1,  2 ]", "d": ["1", "2"], "e": [[1], {"f": [0.5]}]}
        assert json.loads(report.json_text(values)) == values
        assert '"a": [1.5, -2e-09, 3]' in report.json_text(values) and '"f": [0.5]' in report.json_text(values)

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
    @pytest.fixture(autouse=True)
    def _no_drawing(self, monkeypatch):
        draw_nothing(monkeypatch)

    @pytest.mark.slow
    def test_is_well_formed_and_loads_nothing_from_outside(self, results, tmp_path):
        parsed = page(results, tmp_path / "report.html")
        pictures = plots.draw_plots(results)
        assert parsed.open == [] and set(os.listdir(tmp_path)) == {"report.html", *pictures}
        assert {name: (tmp_path / name).read_bytes() for name in pictures} == pictures
        links = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset", "data", "action")]
        assert len(links) == 4 and all(link.startswith("data:image/png;base64,iVBOR") for link in links)
        raw = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "script" not in parsed.tags and "link" not in parsed.tags
        words = re.sub('"data:image[^"]*"', "", raw)  # in a picture's letters any word may stand by chance
        assert "url(" not in words and "@import" not in words and "http" not in words
        assert all(any((tag, n) == ("img", "alt") and v for tag, n, v in parsed.attributes) for _ in links)

    @pytest.mark.slow
    def test_holds_every_number_sentence_and_setting(self, results, tmp_path):
        text = page(results, tmp_path / "report.html").text
        for run in results["runs"].values():
            shown = {field: value for field, value in run.items() if field != "outcomes"}
            numbers = [v for value in shown.values() for v in (value.values() if isinstance(value, dict) else [value])]
            for number in (n for n in numbers if isinstance(n, int | float)):
                assert json.dumps(number) in text
            assert str(run["ray"]["nll"]) in text and str(run["intervals"]["worst_case_success"]["1"]) in text
        assert '"outcomes"' not in text
        table = text[text.index("Results") : text.index("Plots")]
        for cell in ("81.3 [79-84]", "72.6 [70-75]", "70.1 [67-73]", "4.03", "3000", "0.251", "Threat model: l2 ball"):
            assert cell in table
        for sentence in report.summary_sentences(results):
            assert sentence in text
        settings = text[text.index("Settings") :]
        for name, value in {"train_epsilon": 0.4, **results["settings"]}.items():
            assert re.search(rf"{name}\s*{value}\b", settings)

    @pytest.mark.slow
    def test_explains_every_column(self, results, tmp_path):
        text = page(results, tmp_path / "report.html").text
        meaning = text[text.index("What the columns mean") :]
        for first, _ in report.success_cells(results)[0][2:]:
            assert f"{re.sub('worst .*', 'worst Nx', first)} %" in meaning and "[95 %]" in meaning
        for first, second in report.other_cells(results)[0][1:]:
            assert f"{first} {second}" in meaning

    @pytest.mark.slow
    def test_escapes_names_and_settings(self, results, tmp_path):
        results["runs"]["<script>alert(1)</script>"] = results["runs"].pop("sft")
        results["settings"]["note"] = '<img src=x onerror=alert(1)> & "more"'
        parsed = page(results, tmp_path / "report.html")
        assert "script" not in parsed.tags and parsed.tags.count("img") == 4
        assert "<script>alert(1)</script>" in parsed.text and '<img src=x onerror=alert(1)> & "more"' in parsed.text

    @pytest.mark.slow
    def test_interruption_leaves_the_old_page(self, results, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("old")

        def refuse(source, target):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            report.write_report(results, tmp_path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]
