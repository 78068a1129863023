"""What a comparison says, shows and writes."""

import copy
import functools
import io
import json
import os
import re

import matplotlib.image
import matplotlib.text
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from aajr_hf.evaluation.comparison import plots, report
from aajr_hf.evaluation.comparison.compare import compare
from aajr_hf.evaluation.comparison.runs import METHODS, gradient_norms
from aajr_hf.evaluation.comparison.sentences import comparison_sentences
from tests.support.no_drawing import draw_nothing
from tests.support.pages import Page, piped
from tests.support.results import as_results, make_run, trust

from .test_compare import described


def history(scale, whole=True):
    def log(step):
        norms = {"aajr/gradient_norm": scale, "aajr/gradient_norm_squared": scale**2 * (1 + scale)}
        return {"step": step, "grad_norm": scale * step} | (norms if whole else {})

    return [log(step) for step in (10, 20, 30)]


@functools.cache
def make_comparison(profile=True):
    runs = {
        "base": (described("base", epsilon=None, seed=None), (100.0, 43.0, 300.0)),
        "sft": (described("sft", epsilon=0.0), (100.0, 34.0, 310.0)),
        "adversarial": (described("adversarial"), (96.0, 63.0, 150.0)),
        "weak": (described(strength=1e-4), (97.0, 67.0, 40.0)),
        "strong": (described(strength=1e-2), (86.0, 81.0, 4.0)),
        "strong1": (described(strength=1e-2, seed=1), (88.0, 83.0, 4.0)),
        "global": (described("global_spectral"), (90.0, 58.0, 10.0)),
    }
    for i, (name, (description, _)) in enumerate(runs.items()):
        if name != "base":
            description["gradient_norm"] = gradient_norms(history(1.0 + i, whole=name != "sft"))
    numbers = {
        name: make_run(nominal, nominal - 6, (nominal - 2, (nominal + worst) / 2, worst), amplification=amplification)
        | ({"amplification_profile": [1.2 * amplification, amplification]} if profile else {})
        for name, (_, (nominal, worst, amplification)) in runs.items()
    }
    return compare(
        as_results(numbers, train_epsilon=0.25), {name: description for name, (description, _) in runs.items()}
    )


@pytest.fixture
def comparison():
    return copy.deepcopy(make_comparison())


class TestSentences:
    def test_who_wins_at_which_price_and_how_surely(self, comparison):
        trusted, leader, adversarial, spectral, base, _, gradients, chance, several = comparison_sentences(comparison)
        assert trusted == "The success under attack can be trusted: every run passes all checks of the attack."
        assert leader == (
            "Most robust: strong (2 seeds), correct in 82.0% (sampled 77.0%) when attacked at 1x the training radius "
            "(epsilon 0.25). Its price, in nominal success below the best run without a penalty: greedy 13.0 points (95 %: 11.6 to "
            "14.5), 87.0% against 100% for base; sampled 13.0 points (95 %: 12.5 to 13.5), 81.0% against 94.0% for base."
        )
        assert adversarial == (
            "aajr against adversarial at 1x: aajr wins. At equal robustness (both 63.0% under attack) nominal success is 97.0 "
            "against 96.0%, 1.0 points more (95 %: -0.7 to 2.7; p = 0.282); at equal nominal success (both 96.0%) success under "
            "attack is 67.0 against 63.0%, 4.0 points more (95 %: -0.2 to 8.2; p = 0.067). Sampled: at 58.0% under attack, nominal "
            "success is 91.0 against 90.0%, 1.0 points more (95 %: 0.5 to 1.5); at 90.0% nominal success, success under attack is "
            "62.0 against 58.0%, 4.0 points more (95 %: 2.0 to 6.1)."
        )
        assert "aajr against global_spectral at 1x: aajr wins." in spectral and "7.0 points more (95 %: 4" in spectral
        assert "aajr withstands more, base does better without attack." in base
        assert gradients == (
            "Relative to its mean, the gradient norm in training varied least in sft (variance 267, mean 40.0, only over 3 "
            "logged norms) and most in global (variance 343, mean 7.00)."
        )
        assert "paired over 1000 examples" in chance and "up to 2.0 points at 1x" in chance
        assert "aajr 2, global_spectral 1" in several

    @pytest.mark.parametrize(
        ("ours", "theirs", "verdict"),
        [
            ((90.0, 80.0), (60.0, 50.0), "aajr wins."),
            ((60.0, 50.0), (90.0, 80.0), "adversarial wins."),
            ((90.0, 80.0), (90.0, 79.0), "no difference is shown."),
            ((90.0, 80.0), (99.0, 20.0), "aajr withstands more, adversarial does better without attack."),
            ((99.0, 20.0), (90.0, 80.0), "adversarial withstands more, aajr does better without attack."),
        ],
    )
    def test_verdicts(self, ours, theirs, verdict):
        runs = {"a": (described(), ours), "b": (described("adversarial"), theirs)}
        numbers = {n: make_run(nominal, nominal, (worst, worst, worst)) for n, (_, (nominal, worst)) in runs.items()}
        for run in numbers.values():
            run["sampled_worst_case_success"] = dict(run["worst_case_success"])
            run["outcomes"]["sampled_worst_case_success"] = run["outcomes"]["worst_case_success"]
        sentences = comparison_sentences(compare(as_results(numbers), {name: d for name, (d, _) in runs.items()}))
        assert f"aajr against adversarial at 1x: {verdict}" in sentences[2]

    def test_doubts_are_said(self, comparison):
        comparison["differing_settings"] = {"max_steps": [400, 1500]}
        comparison["train_epsilon"] = 0.2
        text = " ".join(comparison_sentences(comparison))
        assert "also differ in max_steps (400, 1500)" in text
        assert "multiples of epsilon 0.2, but training used 0.25" in text

    def test_without_a_run_that_has_no_penalty(self, comparison):
        comparison["best_unregularised"] = {"greedy": None, "sampled": None}
        assert "All runs have a penalty" in comparison_sentences(comparison)[1]

    @pytest.mark.slow
    def test_runs_whose_attack_is_not_to_be_trusted_come_first(self, comparison):
        comparison["runs"]["weak"]["trust"] = trust(passed=False)
        first = comparison_sentences(comparison)[0]
        assert first.startswith('Do not trust the success under attack of weak, which fails the checks "random points')


class TestTable:
    @pytest.mark.slow
    def test_fits_100_columns_and_loses_no_digit(self, comparison):
        text = piped(report.comparison_table(comparison))
        assert max(map(len, text.splitlines())) <= 100 and "…" not in text
        row, training = (line for line in text.splitlines() if line.startswith("weak"))
        shares = ["97.0", "[96-98]", "95.0", "[93-96]", "82.0", "[79-84]", "67.0", "[64-70]"]
        assert row.split() == ["weak", "aajr", "greedy", *shares, "3.0"]
        after = text.splitlines()[text.splitlines().index(row) + 1]
        shares = ["91.0", "[89-93]", "90.0", "[88-92]", "77.0", "[74-80]", "62.0", "[59-65]"]
        assert after.split() == ["sampled", *shares, "3.0"]
        assert training.split() == ["weak", "0.0001", "0.25", "0", "40.0", "68.0", "4.00", "64.0", "-"]
        assert "Threat model: l2 ball over the whole prompt, radius 1x = 0.4 mean embedding norms." in text
        assert "*: only over the 3 logged gradient norms" in text

    def test_the_widest_numbers_and_names(self, comparison):
        names = {name: "global_frobenius_" + name * 9 for name in comparison["runs"]}
        comparison["runs"] = {names[name]: run for name, run in comparison["runs"].items()}
        for run in comparison["runs"].values():
            run |= {"method": "global_frobenius", "regularizer_lambda": 1.5e-5, "epsilon": 0.125, "seed": 1234}
            run |= {"amplification": 99999.0, "train_seconds": 86400.0, "price": {"greedy": -10.5, "sampled": -10.5}}
            run["gradient_norm"] = gradient_norms(history(3.3e6, whole=False))
        text = piped(report.comparison_table(comparison))
        assert max(map(len, text.splitlines())) <= 100
        variance = report.number_text(run["gradient_norm"]["variance"]) + "*"
        for number, rows in {"1.5e-05": 1, "99999": 1, "86400": 1, "-10.5": 2, variance: 1}.items():
            assert text.count(number) == rows * len(names), number
        assert text.count("100 [100-100]") == 2  # of base and sft

    def test_seeds_are_shown_where_there_are_several(self, comparison):
        assert " seed " in piped(report.comparison_table(comparison))
        comparison["configurations"] = list(range(len(comparison["runs"])))
        assert " seed " not in piped(report.comparison_table(comparison))

    @pytest.mark.slow
    def test_names_are_not_markup(self, comparison):
        comparison["runs"] = {"[red]x": comparison["runs"]["weak"]}
        assert "[red]x" in piped(report.comparison_table(comparison))


class TestWrite:
    @pytest.fixture(autouse=True)
    def _no_drawing(self, monkeypatch):
        draw_nothing(monkeypatch)

    @pytest.mark.slow
    def test_writes_everything_and_removes_what_is_stale(self, comparison, tmp_path):
        (tmp_path / "train_epsilon.png").write_text("stale")
        (tmp_path / "notes.txt").write_text("mine")
        report.write_comparison(comparison, tmp_path)
        plots = {"trade_off", "epsilon", "lambda", "amplification_profile", "gradient_norm"}
        assert set(os.listdir(tmp_path)) == {"comparison.json", "comparison.html", "notes.txt"} | {
            f"{name}.png" for name in plots
        }
        written = json.loads((tmp_path / "comparison.json").read_text())
        assert written["sentences"] == comparison_sentences(comparison)
        assert written["runs"] == json.loads(json.dumps(comparison["runs"]))

    @pytest.mark.slow
    def test_the_page_is_whole_and_loads_nothing_from_outside(self, comparison, tmp_path):
        comparison["runs"]["<script>alert(1)</script>"] = comparison["runs"].pop("weak")
        comparison["settings"]["note"] = "<img src=x onerror=alert(1)>"
        report.write_comparison(comparison, tmp_path)
        raw = (tmp_path / "comparison.html").read_text(encoding="utf-8")
        page = Page(raw)
        assert page.open == [] and "script" not in page.tags and "link" not in page.tags
        links = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
        assert len(links) == 5 and all(link.startswith("data:image/png;base64,iVBOR") for link in links)
        words = re.sub('"data:image[^"]*"', "", raw)  # in a picture's letters any word may stand by chance
        assert "url(" not in words and "@import" not in words and "http" not in words
        assert "<script>alert(1)</script>" in page.text
        for sentence in comparison_sentences(comparison):
            assert sentence in page.text

    @pytest.mark.slow
    def test_the_page_shows_and_explains_every_column(self, comparison, tmp_path):
        report.write_comparison(comparison, tmp_path)
        text = Page((tmp_path / "comparison.html").read_text(encoding="utf-8")).text
        meaning = text[text.index("What the columns mean") :]
        success = report.success_cells(comparison, ["0.25", "0.5", "1"])
        for headers, rows in (success, report.training_cells(comparison)):
            for first, second in headers[1:]:
                assert re.sub("worst .*", "worst Nx", first) in meaning and second.split("% ")[-1] in meaning
            for row in rows:
                assert re.search(r"\s+".join(map(re.escape, filter(None, row))), text)
        assert "Threat model: l2 ball" in text and '"outcomes"' not in text
        matched = text[text.index("at equal robustness and") : text.index("Plots")]
        assert "Attacks, one after the other" in matched and matched.count("passed") == 14
        for entry in comparison["matched"]:
            assert re.search(r"\s+".join(map(re.escape, report._matched_row(entry))), matched)

    @pytest.mark.slow
    def test_without_profiles_the_page_says_so(self, tmp_path):
        report.write_comparison(make_comparison(profile=False), tmp_path)
        assert not (tmp_path / "amplification_profile.png").exists()
        assert "no plot of the amplification at each step" in (tmp_path / "comparison.html").read_text()

    def test_a_failure_leaves_the_old_files(self, comparison, tmp_path, monkeypatch):
        (tmp_path / "comparison.json").write_text("old")

        def refuse(*_, **__):
            raise MemoryError

        monkeypatch.setattr(report, "draw_comparison", refuse)
        with pytest.raises(MemoryError):
            report.write_comparison(comparison, tmp_path)
        assert os.listdir(tmp_path) == ["comparison.json"] and (tmp_path / "comparison.json").read_text() == "old"


def drawn(function, *arguments):
    figure = Figure(figsize=(10.4, 4.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    function(figure, *arguments)
    figure.canvas.draw()
    return figure


def lines_of(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


class TestPlots:
    @pytest.mark.slow
    def test_draws_what_there_is(self, comparison, monkeypatch):
        images = plots.draw_comparison(comparison)
        for image in images.values():
            picture = matplotlib.image.imread(io.BytesIO(image))
            assert picture.shape[1] >= 2000 and picture.std() > 0.05
        draw_nothing(monkeypatch)
        bare = copy.deepcopy(comparison)
        for run in bare["runs"].values():
            run.pop("amplification_profile")
            run["gradient_norm"] = None
        bare["configurations"] = [c for c in bare["configurations"] if c["method"] in METHODS[:3]]
        bare["runs"] = {name: run for name, run in bare["runs"].items() if run["method"] in METHODS[:3]}
        assert set(plots.draw_comparison(bare)) == {"trade_off.png", "epsilon.png"}

    @pytest.mark.slow
    def test_trade_off_leads_through_the_lambdas_of_a_method(self, comparison):
        left, right = drawn(plots._draw_trade_off, comparison).axes
        aajr = to_hex(plots._COLORS["aajr"])
        for axes, less in ((left, 0.0), (right, 6.0)):
            paths = [line for line in axes.lines if to_hex(line.get_color()) == aajr and line.get_linestyle() == "-"]
            assert list(paths[0].get_xdata()) == [97.0 - less, 87.0 - less]
        labels = [text.get_text() for text in left.texts if isinstance(text, matplotlib.text.Annotation)]
        assert labels == ["base", "sft", "adversarial", "λ 0.0001", "λ 0.01", "λ 0.001"]

    @pytest.mark.slow
    def test_radii_start_at_the_nominal_success(self, comparison):
        left, right = drawn(plots._draw_radii, comparison).axes
        assert list(lines_of(left, "weak")[0].get_ydata()) == [97.0, 95.0, 82.0, 67.0]
        assert list(lines_of(right, "weak")[0].get_ydata()) == [91.0, 90.0, 77.0, 62.0]
        assert list(lines_of(left, "weak")[0].get_xdata()) == pytest.approx([0, 0.25, 0.5, 1], abs=0.08)

    @pytest.mark.slow
    def test_every_share_has_its_interval(self, comparison):
        greedy, _ = drawn(plots._draw_radii, comparison).axes
        for bars, run in zip(greedy.collections, comparison["runs"].values(), strict=True):
            shown = [segment[:, 1].tolist() for segment in bars.get_segments()]
            assert shown[1:] == [
                pytest.approx(interval) for interval in run["intervals"]["worst_case_success"].values()
            ]
        trade_off, _ = drawn(plots._draw_trade_off, comparison).axes
        assert len(trade_off.collections) == 2 * 5  # across and up, by method
        _, attacked = drawn(plots._draw_curves, comparison, "regularizer_lambda").axes
        assert len(attacked.collections) == 2 * 2 and len(attacked.patches) == 2 * 3  # curves' bars, levels' bands

    def test_lambda_is_logarithmic_with_level_lines_for_no_penalty(self, comparison):
        nominal, attacked = drawn(plots._draw_curves, comparison, "regularizer_lambda").axes
        assert nominal.get_xscale() == attacked.get_xscale() == "log"
        assert [tick.get_text() for tick in attacked.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
        greedy, sampled = lines_of(attacked, "aajr")
        assert list(greedy.get_xdata()) == [1e-4, 1e-2] and list(greedy.get_ydata()) == [67.0, 82.0]
        assert list(sampled.get_ydata()) == [62.0, 77.0] and sampled.get_linestyle() != "-"
        assert list(lines_of(attacked, "adversarial")[0].get_ydata()) == [63.0, 63.0]

    @pytest.mark.slow
    def test_training_radii_are_drawn_where_a_method_has_several(self, comparison, monkeypatch):
        draw_nothing(monkeypatch)
        assert "train_epsilon.png" not in plots.draw_comparison(comparison)
        other = copy.deepcopy(next(c for c in comparison["configurations"] if c["method"] == "adversarial"))
        comparison["configurations"].append(other | {"epsilon": 0.125, "nominal_success": 98.0, "label": "narrow"})
        assert "train_epsilon.png" in plots.draw_comparison(comparison)
        nominal, _ = drawn(plots._draw_curves, comparison, "epsilon").axes
        line = lines_of(nominal, "adversarial")[0]
        assert list(line.get_xdata()) == [0.125, 0.25] and list(line.get_ydata()) == [98.0, 96.0]
        assert lines_of(nominal, "aajr") == [] and lines_of(nominal, "sft")

    def test_profiles_and_gradients(self, comparison):
        axes = drawn(plots._draw_profiles, comparison["runs"]).axes[0]
        assert list(lines_of(axes, "weak")[0].get_ydata()) == [48.0, 40.0] and axes.get_yscale() == "log"
        axes = drawn(plots._draw_gradients, comparison["runs"]).axes[0]
        assert list(lines_of(axes, "adversarial")[0].get_xdata()) == [10, 20, 30]
        assert list(lines_of(axes, "sft")[0].get_ydata()) == [20.0, 40.0, 60.0] and not lines_of(axes, "base")
        few = {name: comparison["runs"][name] for name in ("sft", "weak")}
        assert len(drawn(plots._draw_gradients, few).axes[0].collections) == 1

    def test_runs_of_a_method_differ_in_shade_and_marker(self, comparison):
        styles = plots.run_styles(comparison["runs"])
        assert len({(to_hex(style["color"]), style["marker"]) for style in styles.values()}) == len(styles)
        assert to_hex(styles["strong1"]["color"]) == plots._COLORS["aajr"].lower()
