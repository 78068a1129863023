"""The rank that an adapter needs: `rank.json` of `aajr adapter-rank`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Spectrum(TypedDict):
    """See `measure_rank`; `directions` by share and `coverage` by rank."""

    size: int
    stable_rank: float
    directions: dict[str, int | None]
    coverage: dict[str, float]
    singular_values: list[float]


class RankRecommendation(TypedDict):
    """Without a rank, no module either; without a smaller rank, no share of it."""

    share: float
    rank: int | None
    module: NotRequired[str]
    smaller: NotRequired[int | None]
    smaller_share: NotRequired[float]
    sentence: str


class RankNumbers(TypedDict):
    """What `measure_rank` returns; `penalty_gradient` and `update` by module."""

    directions: Spectrum
    images: Spectrum
    penalty_gradient: dict[str, Spectrum]
    update: dict[str, Spectrum]
    recommendation: RankRecommendation


class RankResults(RankNumbers):
    """`rank.json`."""

    kind: Literal["adapter_rank"]
    model: str
    base: str | None
    examples: int
    epsilon: float
    ascent_steps: int
