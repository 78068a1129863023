"""What prompts share: sentences, table and plot, and the warning before gradients that are not to be trusted."""

from __future__ import annotations

import pytest

from aajr_hf.evaluation.reporting.attack_report import attack_tables
from aajr_hf.evaluation.reporting.results import check_results
from aajr_hf.evaluation.reporting.shared_directions import draw_shared, shared_cells, shared_sentences
from aajr_hf.evaluation.reporting.summary import summary_sentences
from tests.support.results import MULTIPLES, as_results, make_run


def shared(**more):
    return {
        "examples": 128,
        "dimensions": 3584,
        "energy": {"1": 20.0, "2": 30.0, "4": 50.0, "8": 69.2, "16": 80.0, "32": 88.0},
        "worst": dict(zip(MULTIPLES, (0, 40, 200), strict=True)),
        "explained": dict(zip(MULTIPLES, (0, 10, 150), strict=True)),
        "cosine": 0.82,
        "signs": 75.0,
    } | more


def results_with(**more):
    run = make_run(99.0, 98.0, (90.0, 80.0, 60.0)) | {"shared_directions": shared(**more)}
    return as_results({"base": run, "old": make_run(99.0, 98.0, (90.0, 80.0, 60.0))})


def test_the_table_names_the_energy_and_what_is_explained_of_what_was_broken():
    headers, rows = shared_cells(results_with())
    assert (
        headers[:4] == ["run", "dims", "top 8 %", "top 32 %"]
        and len(headers) == len(rows[0]) == 4 + len(MULTIPLES) + 2
    )
    # Without a row for results that are older.
    assert len(rows) == 1 and rows[0][:4] == ["base", "3584", "69.2", "88.0"]
    # Nothing was broken at the smallest radius, of 200 examples 150 at the largest: Wilson's interval.
    assert rows[0][4:7] == ["-", "25.0 [14-40]", "75.0 [69-80]"] and rows[0][7:] == ["0.820", "75.0"]
    assert any(table.title and "share" in table.title for table in attack_tables(results_with()))


def test_a_sentence_compares_with_random_directions():
    (sentence,) = shared_sentences(results_with())
    assert "base: the top 32 of 3584 dimensions hold 88.0%" in sentence and "they would hold 0.9%" in sentence
    assert sentence in summary_sentences(results_with())
    few = results_with(energy={"1": 20.0, "2": 30.0})
    assert shared_sentences(few) == [] and shared_cells(few)[1][0][2:4] == ["-", "-"]


@pytest.mark.parametrize(("cosine", "signs", "warned"), [(0.5, 60.0, False), (0.49, 90.0, True), (0.9, 59.0, True)])
def test_gradients_that_agree_too_little_are_warned_of(cosine, signs, warned):
    sentences = shared_sentences(results_with(cosine=cosine, signs=signs))
    assert (
        any(sentence.startswith("WARNING: base: ") and "do not trust" in sentence for sentence in sentences) == warned
    )


def test_the_plot_is_drawn_where_there_is_something_to_draw():
    assert draw_shared(results_with())["energy.png"].startswith(b"\x89PNG")
    assert (
        draw_shared(results_with(energy={}))
        == draw_shared(as_results({"old": make_run(9.0, 9.0, (9.0, 9.0, 9.0))}))
        == {}
    )


def test_numbers_that_are_not_finite_are_refused():
    check_results(results_with())
    with pytest.raises(ValueError, match=r"shared_directions\.energy\.8"):
        check_results(results_with(energy={"8": float("nan")}))
