"""Results of tool calls: `results.json` of `aajr evaluate` with a dataset."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .parts import AttackTally, ByRadius, ClassShares, Evaluation, Settings, SharedDirections, TextTally, TrustRule


class CallShares(TypedDict):
    """
    Valid and exact calls, without attack and under it; `all_attacks_exact`: also under attacks in words.

    Attributes:
        nominal_valid, nominal_exact: Percent of the answers that are valid calls, and that are the expected calls,
            without attack.
        worst_case_valid, worst_case_exact: The same under all attacks within a radius or a smaller one.
        all_attacks_exact: `worst_case_exact`, also under attacks in words.
    """

    nominal_valid: float
    nominal_exact: float
    worst_case_valid: ByRadius[float]
    worst_case_exact: ByRadius[float]
    all_attacks_exact: NotRequired[ByRadius[float]]


class CallLists(TypedDict):
    """
    For each field of [`CallShares`], the two ends of its interval, or the outcomes of all rows.

    Attributes:
        nominal_valid, nominal_exact: Without attack.
        worst_case_valid, worst_case_exact: Under all attacks within a radius or a smaller one.
        all_attacks_exact: Also under attacks in words.
    """

    nominal_valid: list[float]
    nominal_exact: list[float]
    worst_case_valid: ByRadius[list[float]]
    worst_case_exact: ByRadius[list[float]]
    all_attacks_exact: NotRequired[ByRadius[list[float]]]


class CallTally(AttackTally):
    """
    `exact`: the share of exact calls after this attack and all attacks before it.

    Attributes:
        exact: The share of exact calls after this attack and all attacks before it.
    """

    exact: ByRadius[float]


class ToolCallNumbers(CallShares):
    """
    The measurements of one agent by `evaluate_tool_calls`, which describes each field; `failures` by radius or
    `nominal`, then by reason; `text_attacks` by attack, then by its kind.

    Attributes:
        examples: Number of rows.
        nominal_nll, worst_case_nll: Negative log-likelihood of the completions, in nats per token, without and
            under attack.
        failures: For `nominal` and each radius, the number of invalid answers by reason.
        reference_valid, reference_exact: The same shares for the completions themselves; below 100 if the data
            breaks its own schemas.
        outcomes: The shares row by row.
        attacks: For each attack, in the order in which they ran, what it broke.
        text_attacks: By attack, then by its kind: attacks in words, which have no radius.
        by_words: By attack in words, the share that it leaves by itself.
        by_class: By class of the rows.
        trust: The checks of whether to trust the numbers.
        embedding_norm: Mean norm of the perturbed embeddings.
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
    """
    The same numbers with the intervals of the shares and, if known, the training time.

    Attributes:
        intervals: 95 % intervals of the shares (Wilson).
        train_seconds: Duration of the training, in seconds; None if it is not known.
    """

    intervals: CallLists
    train_seconds: float | None


class CallSettings(Settings):
    """
    Attributes:
        dataset_name, dataset_config, dataset_split: Where the rows come from.
        dataset_format: Their format.
        max_new_tokens: Longest answer, in tokens; None if it follows from the rows.
        injections: File with requests for other calls; None for the package's own.
        triggers: Triggers that the attack `trigger` tried.
        class_column: Column with the class of a row.
    """

    dataset_name: str
    dataset_config: str | None
    dataset_format: str
    dataset_split: str | None
    max_new_tokens: int | None
    injections: str | None
    triggers: list[str]
    class_column: NotRequired[str]


class ToolCallResults(Evaluation):
    """
    `results.json` of `aajr evaluate --dataset_name`.

    Attributes:
        kind: `tool_calls`.
        runs: By name of the agent.
        settings: What was run.
    """

    kind: Literal["tool_calls"]
    runs: dict[str, ToolCallRun]
    settings: CallSettings
