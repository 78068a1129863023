"""Agents under attacks that rewrite what users and tools say, in worlds and on tool calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...training.sharing.results import TextTally
from ..attacks.rewriting import Attacked, Rewritten, TextAttack
from ..attacks.target import Target
from ..batches import batches_by_length, read_batch
from ..processes import gathered, my_share

# From rewritten rows, yields the place of each in the list, whether its answer is right, and whether the agent makes the
# call that the attack asks for.
Judge = Callable[[list[Rewritten]], Iterable[tuple[int, bool, bool]]]


def attack_texts(
    rows: list[dict[str, Any]],
    nominal: list[bool],
    attack: TextAttack,
    on: Attacked,
    judged: Judge,
    *,
    may_ask: Callable[[Rewritten], bool] = lambda one: True,
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, TextTally]:
    """
    Rewrite each row by each kind of an attack as often as the attack says, and judge the answers by what is right for the
    rewritten row.

    Args:
        nominal: For each row, whether the answer without attack is right.
        may_ask: Whether an attack may ask for this call.

    Returns:
        By kind: the number of `rows` that can be attacked, and of these, in percent, the rows that are right (`exact`)
        without attack (`nominal`), under all tries (`exact`), and the rows for which a try got the call that it asks for
        (`made`); None where the attack asks for no call. `outcomes`: the same row by row, None for rows that cannot be
        attacked. Kinds that are never tried are left out.
    """
    found = {}
    for kind in attack.kinds:
        exact, made = list(nominal), [False] * len(rows)
        seen: list[list[Rewritten]] = [[] for _ in rows]
        tries = attack.tries(kind, len(on.triggers))
        for attempt in range(tries):
            tried = attack(kind, attempt, rows, on)
            numbers = [number for number, one in enumerate(tried) if one is not None and may_ask(one)]
            for number in numbers:
                seen[number].append(tried[number])
            for place, right, obeyed in judged([tried[number] for number in numbers]) if numbers else ():
                exact[numbers[place]] &= right
                made[numbers[place]] |= obeyed
            on_progress()
        if tries:
            asks = any(one.wanted for several in seen for one in several)
            found[kind] = _tally(nominal, exact, made if asks else None, [bool(several) for several in seen])
    return found


def judge_answers(on: Attacked, rewritten: list[Rewritten]) -> Iterable[tuple[int, bool, bool]]:
    """A [`Judge`] for rows of worlds: greedy decoding gives the expert's answer."""
    rows = [one.row for one in rewritten]
    batches, found = list(batches_by_length(on.tokenizer, rows, on.batch_size)), {}
    for place in my_share(len(batches)):
        some = [rows[number] for number in batches[place]]
        target = Target(on.model, read_batch(on.tokenizer, some, "prompt", on.model.device, candidates=False))
        right = target.outcome(target.origin).greedy.bool().tolist()
        found[place] = [(number, one, False) for number, one in zip(batches[place], right, strict=True)]
    for answers in gathered(found):
        yield from answers


def _tally(nominal: list[bool], exact: list[bool], made: list[bool] | None, attacked: list[bool]) -> TextTally:
    def share(values: list[bool]) -> float:
        of = [value for value, there in zip(values, attacked, strict=True) if there]
        return 100 * sum(of) / max(len(of), 1)

    def outcomes(values: list[bool]) -> list[float | None]:
        return [float(value) if there else None for value, there in zip(values, attacked, strict=True)]

    return {
        "rows": sum(attacked),
        "nominal": share(nominal),
        "exact": share(exact),
        "made": None if made is None else share(made),
        "outcomes": {"exact": outcomes(exact), "made": None if made is None else outcomes(made)},
    }
