"""Results of tool calls: `results.json` of `aajr evaluate` with a dataset."""

from __future__ import annotations

from typing import Literal, TypedDict

from .parts import AttackTally, ByRadius, Evaluation, Settings, TrustRule


class CallShares(TypedDict):
    """Valid and exact calls, without attack and under it."""

    nominal_valid: float
    nominal_exact: float
    worst_case_valid: ByRadius[float]
    worst_case_exact: ByRadius[float]


class CallLists(TypedDict):
    """For each of [`CallShares`] the two ends of its interval, or the outcomes of all rows."""

    nominal_valid: list[float]
    nominal_exact: list[float]
    worst_case_valid: ByRadius[list[float]]
    worst_case_exact: ByRadius[list[float]]


class CallTally(AttackTally):
    """`exact`: the calls that the attack and those before it leave."""

    exact: ByRadius[float]


class ToolCallNumbers(CallShares):
    """What `evaluate_tool_calls` measures of an agent, and says of each field; `failures` by reason, at each radius and `nominal`."""

    examples: int
    nominal_nll: float
    worst_case_nll: ByRadius[float]
    failures: dict[str, dict[str, int]]
    reference_valid: float
    reference_exact: float
    outcomes: CallLists
    attacks: dict[str, CallTally]
    trust: list[TrustRule]
    embedding_norm: float


class ToolCallRun(ToolCallNumbers):
    """The same in results, with the intervals of its shares, and how long it was trained, where that is known."""

    intervals: CallLists
    train_seconds: float | None


class CallSettings(Settings):
    dataset_name: str
    dataset_config: str | None
    dataset_format: str
    dataset_split: str | None
    max_new_tokens: int | None


class ToolCallResults(Evaluation):
    """`results.json` of `aajr evaluate --dataset_name`."""

    kind: Literal["tool_calls"]
    runs: dict[str, ToolCallRun]
    settings: CallSettings
