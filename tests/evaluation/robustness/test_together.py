"""The suite's answer: an example counts if no attack breaks it, within a radius or in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.evaluation.reporting.results import new_results
from aajr_hf.evaluation.reporting.together import together_cells, together_sentences, together_tables
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.evaluation.robustness.together import add_together, in_words
from aajr_hf.training.sharing.results import RobustnessNumbers
from aajr_hf.training.sharing.world_card import world_section
from tests.support.results import THREAT_MODEL
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying
from tests.support.typed import mismatches

RIGHT = st.sampled_from([0.0, 1.0])
MAYBE = st.sampled_from([None, 0.0, 1.0])


def tally(outcomes) -> dict:
    return {"outcomes": {"exact": list(outcomes)}}


@given(st.lists(st.tuples(RIGHT, RIGHT, MAYBE, MAYBE, RIGHT, MAYBE), min_size=1, max_size=12))
def test_of_each_example_the_worst_counts_and_controls_do_not(rows):
    nominal, within, found, bank, random, swapped = (list(column) for column in zip(*rows, strict=True))
    within = [min(pair) for pair in zip(nominal, within, strict=True)]
    words = in_words(
        {
            "trigger": {"found": tally(found), "bank": tally(bank), "random": tally(random)},
            "incidental": {"swapped": tally(swapped)},
        }
    )
    numbers = {"outcomes": {"nominal_success": nominal, "worst_case_success": {"1": within, "2": [0.0] * len(rows)}}}
    add_together(numbers, "worst_case_success", words)
    expected = [
        min(w, *(value for value in (f, b, s) if value is not None), w)
        for w, f, b, s in zip(within, found, bank, swapped, strict=True)
    ]
    assert numbers["outcomes"]["all_attacks_success"] == {"1": expected, "2": [0.0] * len(rows)}
    assert numbers["all_attacks_success"]["1"] == pytest.approx(100 * sum(expected) / len(rows))
    alone = [
        min(n if f is None else f, n if b is None else b) if (f, b) != (None, None) else n
        for n, f, b in zip(nominal, found, bank, strict=True)
    ]
    if all(None not in pair for pair in zip(found, bank, strict=True)):
        assert numbers["by_words"]["trigger"] == pytest.approx(100 * sum(alone) / len(rows))
    assert list(numbers["by_words"]) == ["trigger", "incidental"]


def test_without_attacks_in_words_there_is_no_such_number():
    numbers = {"outcomes": {"nominal_exact": [1.0], "worst_case_exact": {"1": [1.0]}}}
    add_together(numbers, "worst_case_exact", in_words({}))
    assert "all_attacks_exact" not in numbers and "by_words" not in numbers


@pytest.mark.slow
def test_of_an_agent_all_attacks_leave_what_withstands_each_of_them():
    attacks = ("warm_nll", "token", "trigger")
    settings = replace(
        SMALL,
        attacks=attacks,
        multiples=(0.2, 1.0),
        power_iterations=2,
        batch_size=16,
        token_trials=2,
        triggers=("owe 3",),
    )
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, settings)
    assert mismatches(numbers, RobustnessNumbers) == [] and json.dumps(numbers, allow_nan=False)
    outcomes, texts = numbers["outcomes"], numbers["text_attacks"]["trigger"]
    assert list(texts) == ["found", "bank", "random"] and list(numbers["by_words"]) == ["trigger"]
    for multiple, together in outcomes["all_attacks_success"].items():
        for row, right in enumerate(together):
            attacked = [outcomes["worst_case_success"][multiple][row]]
            attacked += [texts[kind]["outcomes"]["exact"][row] for kind in ("found", "bank")]
            assert right <= min(attacked)
    results = new_results("robustness", {"mine": numbers}, THREAT_MODEL, {"environment": "congestion"})
    run = results["runs"]["mine"]
    headers, ((name, *shares),) = together_cells(results)
    assert headers == ["run", "embeddings, 1x", "trigger", "together"] and name == "mine"
    low, high = run["intervals"]["all_attacks_success"]["1"]
    assert shares[-1] == f"{run['all_attacks_success']['1']:.1f} [{low:.0f}-{high:.0f}]".replace("100.0", "100")
    assert len(together_tables(results)) == 1
    assert "withstand all attacks together, at 1x" in together_sentences(results)[0]
    card = world_section(results | {"train_epsilon": 0.25})
    assert (
        "| success, greedy, against attacks in words, too |" in card
        and "Left by each attack in words: trigger " in card
    )
