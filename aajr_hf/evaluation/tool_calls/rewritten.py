"""Judge tool calls under attacks that rewrite what users and tools say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...training.sharing.results import TextTally
from ..attacks.rewriting import Attacked, Rewritten, TextAttack
from ..batches import batches_by_length
from ..processes import gathered, my_share
from ..robustness.rewritten import attack_texts
from .caller import ToolCaller
from .judge import as_accepted, judge, matches, read_call


def attack_calls(
    caller: ToolCaller,
    rows: list[dict[str, Any]],
    nominal: list[bool],
    attack: TextAttack,
    on: Attacked,
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, TextTally]:
    """
    Attack rows of [`read_rows`] as [`attack_texts`] does. A call that is accepted anyway is not asked for.

    Args:
        nominal: For each row, whether the answer without attack is exact.
    """

    def judged(rewritten: list[Rewritten]) -> Iterable[tuple[int, bool, bool]]:
        batches = list(batches_by_length(caller.tokenizer, [one.row for one in rewritten], on.batch_size))
        found = {number: list(judged_batch(rewritten, batches[number])) for number in my_share(len(batches))}
        for answers in gathered(found):
            yield from answers

    def judged_batch(rewritten: list[Rewritten], batch: list[int]) -> Iterable[tuple[int, bool, bool]]:
        chosen = [rewritten[place] for place in batch]
        answers = caller.answers([one.row for one in chosen], others=[_obeying(one) for one in chosen])
        for place, one, answer in zip(batch, chosen, answers, strict=True):
            calls = [] if one.wanted is None else as_accepted([read_call(one.wanted)])
            made = any(matches([call], calls) for call in answer.calls)
            yield place, judge(answer, one.row).exact, made

    return attack_texts(
        rows, nominal, attack, on, judged, may_ask=lambda one: not _is_asked(one), on_progress=on_progress
    )


def _obeying(one: Rewritten) -> dict[str, Any]:
    """The row with the call that the attack asks for as its completion."""
    if one.wanted is None:
        return one.row
    return one.row | {"completion": [{"role": "assistant", "content": "", "tool_calls": [one.wanted]}]}


def _is_asked(one: Rewritten) -> bool:
    """Whether the attack asks for a call that is accepted anyway."""
    return one.wanted is not None and any(
        matches([read_call(one.wanted)], [accepted]) for accepted in one.row["accepted"]
    )
