"""The rank that an adapter needs: `rank.json` of `aajr adapter-rank`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Spectrum(TypedDict):
    """
    A spectrum, see `measure_rank`; the keys of `directions` are shares, those of `coverage` are ranks.

    Attributes:
        size: Largest possible number of directions.
        stable_rank: Sum of the squared singular values over the largest of them.
        directions: Number of directions that carry 90, 95 and 99 % of the energy; None if all known ones do not.
        coverage: Share of the energy, by rank.
        singular_values: The largest ones.
    """

    size: int
    stable_rank: float
    directions: dict[str, int | None]
    coverage: dict[str, float]
    singular_values: list[float]


class RankRecommendation(TypedDict):
    """
    The recommended rank. If there is no `rank`, `module` is absent; if there is no `smaller` rank, `smaller_share` is
    absent.

    Attributes:
        share: Share of the energy that is to be covered.
        rank: The smallest rank that covers it in every module; None if none does.
        module: The module that needs this rank.
        smaller: A smaller rank, to compare.
        smaller_share: Share of the energy that the smaller rank covers in the worst module.
        sentence: Both ranks in words.
    """

    share: float
    rank: int | None
    module: NotRequired[str]
    smaller: NotRequired[int | None]
    smaller_share: NotRequired[float]
    sentence: str


class RankNumbers(TypedDict):
    """
    The result of `measure_rank`; the keys of `penalty_gradient` and `update` are modules.

    Attributes:
        directions, images: Of the ascent's directions u_t, and of J u_t; rows are positions.
        penalty_gradient: Of the penalty's gradient, summed over the examples.
        update: Of the change that training has made to the weights; empty without a base.
        recommendation: What follows.
    """

    directions: Spectrum
    images: Spectrum
    penalty_gradient: dict[str, Spectrum]
    update: dict[str, Spectrum]
    recommendation: RankRecommendation


class RankResults(RankNumbers):
    """
    `rank.json`.

    Attributes:
        kind: `adapter_rank`.
        model: The model that was measured.
        base: The model before training; None if it is not known.
        examples: Number of examples.
        epsilon: Radius of the ascent.
        ascent_steps: Its number of steps.
    """

    kind: Literal["adapter_rank"]
    model: str
    base: str | None
    examples: int
    epsilon: float
    ascent_steps: int
