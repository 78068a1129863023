"""The rank that an adapter needs: `rank.json` of `aajr adapter-rank`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Spectrum(TypedDict):
    """A spectrum, see `measure_rank`; the keys of `directions` are shares, those of `coverage` are ranks."""

    size: int
    stable_rank: float
    directions: dict[str, int | None]
    coverage: dict[str, float]
    singular_values: list[float]


class RankRecommendation(TypedDict):
    """
    The recommended rank. If there is no `rank`, `module` is absent; if there is no `smaller` rank, `smaller_share` is
    absent.
    """

    share: float
    rank: int | None
    module: NotRequired[str]
    smaller: NotRequired[int | None]
    smaller_share: NotRequired[float]
    sentence: str


class RankNumbers(TypedDict):
    """The result of `measure_rank`; the keys of `penalty_gradient` and `update` are modules."""

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
