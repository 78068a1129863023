"""Triggers: the search against brute force and closed forms, words that survive encoding, rows that stay whole."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks.fluency import LanguageModel, NGram, check_same_tokens, observed_tokens
from aajr_hf.evaluation.attacks.losses import margin, soft_failure, warm_nll
from aajr_hf.evaluation.attacks.rewriting import Attacked
from aajr_hf.evaluation.attacks.suite import TEXT_ATTACKS
from aajr_hf.evaluation.attacks.trigger import TriggerLesson, Triggers
from aajr_hf.evaluation.attacks.trigger_loss import Slots, TriggerLoss, Words, trigger_loss, words_of
from aajr_hf.evaluation.attacks.trigger_search import Effort, best_of_random, find_trigger
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.data.triggers import with_trigger
from aajr_hf.training.policy.policy import frozen_parameters
from tests.support import ROOT
from tests.support.known_policies import EXAMPLES, WIDTH, directions, linear, make_target, margins
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, copying
from tests.support.tool_callers import HERMES, ROWS, caller, tokenizer_with

USERS = {"user"}
EVERYTHING = 10**6
LOSS = warm_nll


@functools.cache
def copying_words() -> Words:
    return words_of(COPYING_TOKENIZER)


def copying_loss(length, rows=COPYING_ROWS):
    return trigger_loss(
        copying(), COPYING_TOKENIZER, rows, copying_words(), length, roles=USERS, loss=LOSS, batch_size=5
    )


def loss_by_hand(text: str) -> float:
    """The mean loss of rows whose texts end with a trigger, one by one, without the search's code."""
    total = 0.0
    for row in COPYING_ROWS:
        said = [{"role": "user", "content": f"{row['prompt'][0]['content']} {text}"}]
        inputs = encode_examples(COPYING_TOKENIZER, [row | {"prompt": said}], candidates=False)
        with torch.no_grad():
            logits = copying()(input_ids=inputs["input_ids"]).logits[0, :-1] / 3
        labels = inputs["labels"][0, 1:].clone()
        # What the template writes after the end of the answer is no answer.
        end = (inputs["input_ids"][0, 1:] == COPYING_TOKENIZER.eos_token_id).nonzero()
        labels[int(end[-1]) + 1 :] = -100
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return total / len(COPYING_ROWS)


@pytest.mark.slow
def test_a_word_found_among_all_candidates_is_the_worst_of_all_words():
    loss, words = copying_loss(1), copying_words()
    by_hand = {text: loss_by_hand(text) for text in words.texts}
    found = find_trigger(loss, (0,), Effort(candidates=EVERYTHING, beam=1, rounds=1))
    assert words.text(found.words) == max(by_hand, key=by_hand.get)
    for number, text in enumerate(words.texts):
        assert loss((number,)) == pytest.approx(by_hand[text], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_words_found_with_everything_tried_are_the_worst_pair_from_left_to_right():
    loss = copying_loss(2)
    size = len(copying_words().texts)
    everything = find_trigger(loss, (0, 0), Effort(candidates=EVERYTHING, beam=size + 1, rounds=1))
    best = max(loss(pair) for pair in itertools.product(range(size), repeat=2))
    assert everything.value == pytest.approx(best, rel=1e-6)
    few = find_trigger(loss, (0, 0), Effort(candidates=2, beam=1, rounds=3))
    assert loss((0, 0)) <= few.value <= best + 1e-9


def linear_loss(size=500, places=(2, 3), seed=0) -> TriggerLoss:
    """The loss `height` of linear policies, of which the words are random vectors."""
    target = make_target(linear(directions(), margins()))
    table = torch.randn(size, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return TriggerLoss([Slots(target, torch.tensor([places]).expand(EXAMPLES, -1))], table, margin)


def test_on_a_linear_policy_the_scores_are_exact_and_one_candidate_is_enough():
    loss, start = linear_loss(), (7, 11)
    scores, now = loss.hotflip(start), loss(start)
    drawn = random.Random(0)
    for place, word in itertools.product((0, 1), drawn.sample(range(500), 20)):
        new = tuple(word if at == place else old for at, old in enumerate(start))
        assert loss(new) - now == pytest.approx(float(scores[place, word]), abs=1e-9)
    found = find_trigger(loss, start, Effort(candidates=1, beam=1, rounds=1))
    mean = directions().mean(dim=0)[[2, 3]]
    assert found.words == tuple((mean @ loss.table.T).argmax(dim=1).tolist())


def test_the_search_costs_what_it_says_and_beats_random_triggers_of_equal_cost():
    effort, wins = Effort(candidates=4, beam=2, rounds=2, starts=5), 0
    for seed in range(8):
        loss = linear_loss(seed=seed)
        start = best_of_random(loss, 2, effort.starts, random.Random(seed)).words
        found = find_trigger(loss, start, effort)
        assert loss.passes <= effort.passes(2)
        before = loss.passes
        control = best_of_random(loss, 2, effort.passes(2), random.Random(seed))
        assert effort.passes(2) / 2 < loss.passes - before <= effort.passes(2)
        wins += found.value > control.value
    assert wins == 8  # by chance, with probability 1/256


@pytest.mark.slow
def test_on_an_agent_the_search_beats_random_triggers_of_equal_cost_by_more_than_chance():
    """By the margin, which does not saturate: almost any three words break all answers of this agent."""
    model, tokenizer = load_agent(str(ROOT / "docs" / "results" / "agents" / "congestion"))
    rows, words = held_out_rows("congestion", 16, seed=3), words_of(tokenizer)
    loss = trigger_loss(model, tokenizer, rows, words, 3, roles=USERS, loss=margin)
    effort, wins = Effort(candidates=8, beam=2, rounds=2, starts=12), 0
    with frozen_parameters(model):
        for seed in range(8):
            start = best_of_random(loss, 3, effort.starts, random.Random(seed)).words
            found = find_trigger(loss, start, effort)
            wins += found.value > best_of_random(loss, 3, effort.passes(3), random.Random(seed)).value
    assert wins >= 7  # by chance, with probability 9/256


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: COPYING_TOKENIZER, lambda: caller()[1]], ids=["world", "tools"])
def test_triggers_survive_decoding_and_encoding(make):
    tokenizer = make()
    words = words_of(tokenizer)
    assert len(words.texts) > 5 and not set(words.tokens.tolist()) & set(tokenizer.added_tokens_decoder)

    @given(st.lists(st.integers(0, len(words.texts) - 1), min_size=1, max_size=6))
    def survive(numbers):
        tokens = words.tokens[numbers].tolist()
        for before in ("need 3 owe 1", "Dim den to 3", "{}"):
            ids = tokenizer(f"{before} {words.text(numbers)}", add_special_tokens=False)["input_ids"]
            assert ids == tokenizer(before, add_special_tokens=False)["input_ids"] + tokens
            assert tokenizer.decode(ids).endswith(words.text(numbers))

    survive()


@pytest.mark.parametrize("template", ["qwen3", HERMES], ids=["qwen3", "hermes"])
def test_templates_stay_whole_around_a_trigger(template):
    tokenizer = tokenizer_with(template, ["over there they are all over there"] * 20, 700)
    words = words_of(tokenizer)
    for row in read_rows(ROWS):
        text = words.text([0, 1, 2])
        longer = row | {"prompt": with_trigger(row["prompt"], text, USERS)}
        plain, triggered = (
            encode_examples(tokenizer, [r], candidates=False)["input_ids"][0].tolist() for r in (row, longer)
        )
        tokens = words.tokens[:3].tolist()
        (place,) = [i for i in range(len(triggered)) if triggered[i : i + 3] == tokens]
        assert triggered[:place] + triggered[place + 3 :] == plain


@pytest.mark.slow
def test_the_bigram_model_is_that_of_its_counts_and_a_large_weight_finds_the_likeliest_words():
    words = Words(torch.arange(10, 14), ("a", "b", "c", "d"))
    texts = [[10, 11, 12], [10, 11, 99, 13], [11, 12, 10]]
    model = NGram(texts, words, strength=2.0)
    singles = Counter(token for text in texts for token in text if token != 99)
    single = {token: (singles[token] + 2 / 4) / (9 + 2) for token in range(10, 14)}
    after_b = {12: 2}  # what is no word is left out
    for number, token in enumerate(range(10, 14)):
        expected = (after_b.get(token, 0) + 2 * single[token]) / (2 + 2)
        assert float(model([1])[number]) == pytest.approx(math.log(expected))
    for before in ([], [0], [1], [3], [2, 0]):
        assert float(model(before).exp().sum()) == pytest.approx(1)
    # The ends of the texts are c, d and a.
    first = (model([2]).exp() + model([3]).exp() + model([0]).exp()) / 3
    assert torch.allclose(model([]).exp(), first)

    loss = copying_loss(2)
    judge = NGram(observed_tokens(COPYING_TOKENIZER, COPYING_ROWS, USERS), copying_words())
    size = len(copying_words().texts)
    chances = {
        pair: float(judge(())[pair[0]] + judge(pair[:1])[pair[1]]) for pair in itertools.product(range(size), repeat=2)
    }
    effort = Effort(candidates=EVERYTHING, beam=size, rounds=1)
    found = find_trigger(loss, (0, 0), effort, fluency=judge, weight=1e6)
    assert chances[found.words] == pytest.approx(max(chances.values()))
    without = find_trigger(loss, (0, 0), effort)
    assert loss(without.words) >= loss(found.words) and chances[without.words] <= chances[found.words]


def test_a_language_model_says_what_it_predicts_and_needs_the_same_tokens():
    words = copying_words()
    texts = observed_tokens(COPYING_TOKENIZER, COPYING_ROWS[:2], USERS)
    judge = LanguageModel(copying(), texts, words)
    with torch.no_grad():
        found = [
            copying()(input_ids=torch.tensor([[*text, int(words.tokens[4])]])).logits[0, -1].log_softmax(-1)
            for text in texts
        ]
    assert torch.allclose(judge([4]), torch.stack(found).mean(dim=0)[words.tokens].double(), atol=1e-5)
    check_same_tokens(COPYING_TOKENIZER, COPYING_TOKENIZER)
    with pytest.raises(ValueError, match="other tokens than the agent"):
        check_same_tokens(COPYING_TOKENIZER, caller()[1])


def test_the_loss_of_a_trigger_is_a_smooth_share_of_wrong_answers():
    target = make_target(linear(directions(), margins()))
    for height, share in ((-1e3, 0.0), (0.0, 0.5), (1e3, 1.0)):
        logits = make_target(lambda delta, numbers, h=height: h + delta.sum(dim=(1, 2))).policy(target.origin)
        assert soft_failure(logits, target.batch).mean() == pytest.approx(share, abs=1e-6)
    logits = target.policy(directions())
    by_hand = [1 / (1 + math.exp(-float(value) / 2)) for value in margin(logits, target.batch)]
    assert soft_failure(logits, target.batch).tolist() == pytest.approx(by_hand)


SMALL = Triggers(length=2, effort=Effort(candidates=3, beam=1, rounds=1))


def attacked(**more) -> Attacked:
    return Attacked(copying(), COPYING_TOKENIZER, USERS, batch_size=8, **more)


def ends(found, rows=COPYING_ROWS) -> list[str]:
    """What stands behind each row's own text."""
    texts = [row["prompt"][0]["content"] for row in rows]
    said = [one.row["prompt"][0]["content"] for one in found]
    assert all(new.startswith(f"{text} ") for new, text in zip(said, texts, strict=True))
    return [new[len(text) + 1 :] for new, text in zip(said, texts, strict=True)]


@pytest.mark.parametrize("kind", ["found", "random"])
def test_rows_are_attacked_with_what_the_other_half_teaches(kind):
    found = ends(SMALL(kind, 0, COPYING_ROWS, attacked()))
    lessons = [
        TriggerLesson.of(copying(), COPYING_TOKENIZER, COPYING_ROWS[half::2], 2, roles=USERS) for half in (0, 1)
    ]
    texts = [getattr(lesson, {"found": "find", "random": "random"}[kind])(2, SMALL.effort, 0) for lesson in lessons]
    assert found == [texts[1 - number % 2] for number in range(len(COPYING_ROWS))]
    assert found == ends(SMALL(kind, 0, COPYING_ROWS, attacked()))
    assert SMALL(kind, 0, COPYING_ROWS[:1], attacked()) == [None]  # there is no other row to learn from


def test_all_triggers_of_a_bank_are_tried():
    on = attacked(triggers=("owe 3", "take"))
    assert SMALL.tries("bank", 2) == 2 and SMALL.tries("bank", 0) == 0 and SMALL.tries("found", 2) == 1
    for number, text in enumerate(on.triggers):
        assert set(ends(SMALL("bank", number, COPYING_ROWS, on))) == {text}


def test_for_tool_calls_a_trigger_says_nothing_about_a_call():
    model, tokenizer = caller()
    rows = read_rows(ROWS)
    lesson = TriggerLesson.of(model, tokenizer, rows, 1, roles=USERS)
    texts = {text.lower() for text in lesson.words.texts}
    assert texts and not texts & {"den", "hall", "dim", "heat", "room", "3", "20", "degrees"}
    assert TriggerLesson.of(model, tokenizer, rows, 1, roles={"tool"}) is None
    assert TEXT_ATTACKS["trigger"].on_worlds
