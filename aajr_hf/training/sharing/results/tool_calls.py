"""Results of tool calls: `results.json` of `aajr evaluate` with a dataset."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .parts import AttackTally, ByRadius, ClassShares, Evaluation, Settings, SharedDirections, TextTally, TrustRule


class CallShares(TypedDict):
    """Valid and exact calls, without attack and under it; `all_attacks_exact`: also under attacks in words."""

    nominal_valid: float
    nominal_exact: float
    worst_case_valid: ByRadius[float]
    worst_case_exact: ByRadius[float]
    all_attacks_exact: NotRequired[ByRadius[float]]


class CallLists(TypedDict):
    """For each field of [`CallShares`], the two ends of its interval, or the outcomes of all rows."""

    nominal_valid: list[float]
    nominal_exact: list[float]
    worst_case_valid: ByRadius[list[float]]
    worst_case_exact: ByRadius[list[float]]
    all_attacks_exact: NotRequired[ByRadius[list[float]]]


class CallTally(AttackTally):
    """`exact`: the share of exact calls after this attack and all attacks before it."""

    exact: ByRadius[float]


class ToolCallNumbers(CallShares):
    """
    The measurements of one agent by `evaluate_tool_calls`, which describes each field; `failures` by radius or
    `nominal`, then by reason; `text_attacks` by attack, then by its kind.
    """

    examples: int
    nominal_nll: float
    worst_case_nll: ByRadius[float]
    failures: dict[str, dict[str, int]]
    reference_valid: float
    reference_exact: float
    outcomes: CallLists
    attacks: dict[str, CallTally]
    text_attacks: dict[str, dict[str, TextTally]]
    by_words: NotRequired[dict[str, float]]
    by_class: NotRequired[dict[str, ClassShares]]
    trust: list[TrustRule]
    embedding_norm: float
    shared_directions: NotRequired[SharedDirections]


class ToolCallRun(ToolCallNumbers):
    """The same numbers with the intervals of the shares and, if known, the training time."""

    intervals: CallLists
    train_seconds: float | None


class CallSettings(Settings):
    dataset_name: str
    dataset_config: str | None
    dataset_format: str
    dataset_split: str | None
    max_new_tokens: int | None
    injections: str | None
    triggers: list[str]
    class_column: NotRequired[str]


class ToolCallResults(Evaluation):
    """`results.json` of `aajr evaluate --dataset_name`."""

    kind: Literal["tool_calls"]
    runs: dict[str, ToolCallRun]
    settings: CallSettings
