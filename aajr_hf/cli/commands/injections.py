"""`aajr injections`: pairs of preferences that teach an agent not to follow injected requests."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from ...training.data.injections import OWN_TEXTS, read_injection_texts
from ..arguments.options import ArgumentParser
from ..arguments.tool_data import add_tool_data, rows_asked_for
from ..arguments.validators import check_at_least_one, check_seed
from ..common.errors import UserError, user_errors

DESCRIPTION = """Write pairs of preferences from rows that ask for tool calls. In each pair, a text in what a user or a tool says
asks for another call. The chosen answer does what the user asks for; the rejected one makes the injected call. Train on them
with `aajr train --trainer dpo`.

    aajr injections data/bfcl --dataset_format bfcl --model outputs/tool-agent --output outputs/pairs.jsonl
"""
# As SecAlign mixes them.
_COMPLETIONS = 0.1


def run(argv: list[str]) -> int:
    parser = ArgumentParser("injections", description=DESCRIPTION)
    parser.add_argument("data", metavar="DATA", help="dataset: a name on the Hub, a folder, or a file")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="the agent that will be trained. Its answers are chosen, and some injections imitate its chat template",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSON Lines file to write")
    parser.add_argument(
        "--chosen",
        choices=("agent", "reference"),
        default="agent",
        help="chosen answers: the agent's own answer without injection where it is right, and otherwise the reference; or always "
        "the reference (default: %(default)s)",
    )
    add_tool_data(parser, "train")
    parser.add_argument(
        "--injections", metavar="FILE", help="YAML file with the injected texts (default: the package's own)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=16, help="answers that the agent gives at once (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _check(arguments)
    pairs, counts = make_pairs(arguments)
    _write(pairs, arguments.output)
    print(f"{len(pairs)} pairs saved to {arguments.output}: {counts}.")
    return 0


def make_pairs(arguments) -> tuple[list[dict[str, Any]], str]:
    """
    Return the pairs in TRL's format (`prompt`, `chosen`, `rejected`, `tools`, and `injection`: the kind), and a
    sentence with their numbers.

    Raises:
        UserError: if the data, the model or the texts cannot be used, or no row can hold an injection.
    """
    from ...evaluation.agents import load_agent
    from ...evaluation.tool_calls.caller import ToolCaller
    from ...evaluation.tool_calls.rows import read_rows
    from ...training.data.injections import Injector
    from ...training.data.roles import OBSERVED_ROLES

    with user_errors():
        rows = read_rows(rows_asked_for(arguments, arguments.data, "train"))
        model, tokenizer = load_agent(arguments.model)
        texts = read_injection_texts(Path(arguments.injections or OWN_TEXTS))
        injector = Injector(tokenizer, rows, texts, OBSERVED_ROLES["observation"])
        drawn, injected = random.Random(arguments.seed), []
        for row in rows:
            kind = "completion" if drawn.random() < _COMPLETIONS else "plain"
            injected.append((kind, injector.inject(row, kind, drawn)))
        own = [None] * len(rows)
        if arguments.chosen == "agent":
            own = _own_answers(ToolCaller(model, tokenizer, rows), rows, arguments.batch_size)
    pairs, counts = [], Counter()
    for number, (row, (kind, injection), answer) in enumerate(zip(rows, injected, own, strict=True)):
        if injection is None:
            counts["left out"] += 1
            counts.setdefault("first left out", number)
            continue
        counts[kind] += 1
        counts["agent" if answer else "reference"] += 1
        rejected = [{"role": "assistant", "content": "", "tool_calls": [injection.call]}]
        pair = {"prompt": injection.prompt, "chosen": answer or row["completion"], "rejected": rejected}
        pairs.append(pair | {"tools": row["tools"], "injection": kind})
    if not pairs:
        raise UserError("`DATA`: no row can hold an injection: give rows with tools that fit another call.")
    left = counts["left out"]
    return pairs, (
        f"{counts['plain']} plain injections, {counts['completion']} completion injections; chosen answers: "
        f"{counts['agent']} of the agent, {counts['reference']} references; {left} rows left out because no tool fits "
        "another call" + (f" (first: row {counts['first left out']})" if left else "")
    )


def _own_answers(caller, rows: list[dict[str, Any]], batch_size: int) -> list[list[dict[str, Any]] | None]:
    """Return the agent's own answers without injection as messages; None where they are not exact, or no calls."""
    from ...evaluation.batches import batches_by_length
    from ...evaluation.tool_calls.judge import judge

    own = [None] * len(rows)
    for numbers in batches_by_length(caller.tokenizer, rows, batch_size):
        for number, answer in zip(numbers, caller.answers([rows[number] for number in numbers]), strict=True):
            if answer.calls and judge(answer, rows[number]).exact:
                calls = [{"type": "function", "function": call._asdict()} for call in answer.calls]
                own[number] = [{"role": "assistant", "content": "", "tool_calls": calls}]
    return own


def _check(arguments) -> None:
    check_seed(arguments.seed, "--seed")
    check_at_least_one(arguments, "batch_size")
    if arguments.output.suffix not in (".jsonl", ".json") or arguments.output.is_dir():
        raise UserError(f"`--output` must be a file that ends in .jsonl; got {arguments.output}.")


def _write(pairs: list[dict[str, Any]], output: Path) -> None:
    """Write the whole file, or nothing."""
    building = output.with_name(f".{output.name}.part")
    try:
        with user_errors():
            output.parent.mkdir(parents=True, exist_ok=True)
            building.write_text(
                "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8"
            )
            os.replace(building, output)
    finally:
        building.unlink(missing_ok=True)
