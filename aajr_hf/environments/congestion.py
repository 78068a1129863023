"""
`congestion`: N agents share a capacity. Each agent reads the capacity, the demands of its peers and its own need, and
answers how much it takes, by which route, and to which peer it yields its turn.

Taking more than is free congests the system for everybody and costs far more than taking too little. The other fields
cannot congest the system, but must match the observation exactly: an agent that became calm by ignoring its observation
fails on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from .base import TextWorld

ROUTES = "abcd"
MAX_TAKE = 9
MAX_NEED = 3
# Costs per unit taken above the free capacity, and per unit that was free and needed but not taken.
OVERLOAD_COST = 10.0
SHORTFALL_COST = 1.0

_NEED_PROBABILITIES = (0.1, 0.45, 0.3, 0.15)
# Capacity minus the sum of all needs, in busy, tight and quiet rounds.
_SLACK = ((-8, -4), (-3, 1), (2, 7))
_SLACK_PROBABILITIES = (0.3, 0.3, 0.4)
_ANSWER = re.compile(rf"take (\d) via ([{ROUTES}]) yield (\d+)")


@dataclass(frozen=True)
class Answer:
    """An action: the units taken, the route, and the index of the peer that the agent yields to."""

    take: int
    route: str
    peer: int

    def text(self) -> str:
        return f"take {self.take} via {self.route} yield {self.peer}"

    @staticmethod
    def parse(text: str) -> Answer | None:
        """Return the answer written in `text`, or None if the text is not a valid answer."""
        match = _ANSWER.fullmatch(text.strip())
        return Answer(int(match[1]), match[2], int(match[3])) if match else None


@dataclass(frozen=True)
class Observation:
    """The observation of one agent: capacity, demand of each peer, own need, preferred route, peer it owes a turn."""

    capacity: int
    demands: tuple[int, ...]
    need: int
    route: str
    peer: int

    @property
    def free(self) -> int:
        """Capacity that the peers' demands leave, at least 0."""
        return max(self.capacity - sum(self.demands), 0)

    def text(self) -> str:
        demands = " ".join(map(str, self.demands))
        return f"capacity {self.capacity} demands {demands} need {self.need} prefer {self.route} owe {self.peer}"

    def expert(self) -> Answer:
        """Return the best answer: the need, but at most the free capacity; the preferred route; the owed peer."""
        return Answer(min(self.need, self.free), self.route, self.peer)

    def candidates(self) -> list[tuple[Answer, float]]:
        """Return the expert's answer with every possible take, from 0 to 9 units, and the system costs."""
        return [(replace(self.expert(), take=take), self.cost(take)) for take in range(MAX_TAKE + 1)]

    def cost(self, take: int) -> float:
        """Return the system cost of taking `take` units."""
        overload = max(take - self.free, 0)
        shortfall = max(min(self.need, self.free) - take, 0)
        return OVERLOAD_COST * overload + SHORTFALL_COST * shortfall


def sample_needs(rng: np.random.Generator, agents: int) -> np.ndarray:
    return rng.choice(len(_NEED_PROBABILITIES), size=agents, p=_NEED_PROBABILITIES)


def sample_observations(rng: np.random.Generator, agents: int) -> list[Observation]:
    """
    Sample one round, in which every agent sees the needs of all others as demands. Busy rounds have far less capacity
    than is needed, quiet rounds have more; in tight rounds the two are nearly equal.
    """
    needs = sample_needs(rng, agents)
    low, high = _SLACK[rng.choice(len(_SLACK), p=_SLACK_PROBABILITIES)]
    capacity = max(int(needs.sum() + rng.integers(low, high + 1)), 0)
    observations = []
    for i in range(agents):
        peers = tuple(int(n) for j, n in enumerate(needs) if j != i)
        route = ROUTES[rng.integers(len(ROUTES))]
        observations.append(Observation(capacity, peers, int(needs[i]), route, int(rng.integers(1, agents))))
    return observations


class CongestionEnv(TextWorld):
    """
    The world `congestion`. In each round, an agent's reward is a negative cost: its equal part of `OVERLOAD_COST` per
    unit by which the sum of all takes exceeds the capacity, plus `SHORTFALL_COST` per unit that the agent needed and
    that was free, but that it did not take. The null action takes nothing.
    """

    metadata = {"name": "congestion_v0", "render_modes": ["ansi"], "is_parallelizable": True}
    parse = staticmethod(Answer.parse)
    default_steps = 8
    success = "success"
    own_from = "need"
    shocks = {
        "demand_spike": "number of further units that every second agent needs",
        "capacity_drop": "number of units of capacity that fail",
        "misreported_peers": "number of peers of each agent whose demand is reported wrongly",
    }

    @staticmethod
    def variant(rng: np.random.Generator, observation: Observation) -> Observation:
        """Return the observation with the peers in another order: only the sum of their demands counts."""
        return replace(observation, demands=tuple(rng.permutation(observation.demands).tolist()))

    @classmethod
    def sample(cls, rng: np.random.Generator, agents: int) -> list[Observation]:
        return sample_observations(rng, agents)

    def metrics(self) -> dict[str, float]:
        """
        Return the metrics of the episode so far.

        - `served`: share of the units that experts would take that was taken, averaged over the rounds in which experts
          would take any; 0 in a congested round.
        - `success`: `served` times the share of the other rounds that were not congested. Neither greedy nor idle
          agents succeed.
        - `congested`: share of rounds in which the sum of all takes exceeded the capacity.
        - `cost`: mean system cost of a round.
        """
        rounds = max(self.step_count, 1)
        served = self._served / self._servable if self._servable else 1.0
        barren = self.step_count - self._servable
        return {
            "success": served * (1 - self._barren_congested / barren if barren else 1),
            "served": served,
            "congested": self._congested / rounds,
            "cost": self._cost / rounds,
        }

    def plot(self, axes) -> None:
        """Plot the last round: the need and the take of each agent."""
        needs = [observation.need for observation in self._last]
        places = range(len(needs))
        axes.bar([p - 0.2 for p in places], needs, 0.4, color="#BBBBBB", label="needed")
        axes.bar([p + 0.2 for p in places], self._takes, 0.4, color="#0072B2", label="taken")
        axes.set(xlabel="agent", ylabel="units", ylim=(0, MAX_TAKE + 0.5), xticks=list(places))
        took = (
            f"{sum(self._takes)} of {self._last[0].capacity} units taken" if self.step_count else "nothing taken yet"
        )
        axes.set_title(f"round {self.step_count}: {took}; {self._congested} congested so far")
        axes.legend(loc="upper right")

    def _start(self) -> None:
        self._congested = self._servable = self._barren_congested = 0
        self._served = self._cost = 0.0
        self._takes = [0] * len(self.possible_agents)
        self._last: list[Observation] = []

    def _see(self) -> list[Observation]:
        agents = len(self.possible_agents)
        more = [self.shock_size("demand_spike") * (i % 2 == 0) for i in range(agents)]
        drop = self.shock_size("capacity_drop")
        self._true = [
            replace(
                observation,
                capacity=max(observation.capacity - drop, 0),
                need=min(observation.need + more[i], MAX_TAKE),
                demands=tuple(
                    min(demand + extra, MAX_TAKE)
                    for demand, extra in zip(observation.demands, more[:i] + more[i + 1 :], strict=True)
                ),
            )
            for i, observation in enumerate(sample_observations(self._rng, agents))
        ]
        liars = min(self.shock_size("misreported_peers"), agents - 1)
        self._last = self._last or self._true
        return [self._misreported(observation, liars) for observation in self._true] if liars else self._true

    def _misreported(self, observation: Observation, liars: int) -> Observation:
        demands = list(observation.demands)
        for peer in self._rng.choice(len(demands), size=liars, replace=False):
            demands[peer] = int((demands[peer] + self._rng.integers(1, MAX_NEED + 1)) % (MAX_NEED + 1))
        return replace(observation, demands=tuple(demands))

    def _play(self, answers: dict[str, Answer | None]) -> tuple[dict[str, float], set[str]]:
        self._takes = [answer.take if answer else 0 for answer in answers.values()]
        self._last = self._true
        # Rewards use the true demands, not the misreported ones.
        best = [observation.expert().take for observation in self._true]
        overload = max(sum(self._takes) - self._true[0].capacity, 0)
        shortfalls = [max(b - t, 0) for b, t in zip(best, self._takes, strict=True)]
        costs = [OVERLOAD_COST * overload / len(best) + SHORTFALL_COST * shortfall for shortfall in shortfalls]
        if any(best):
            self._servable += 1
            self._served += 0.0 if overload else 1 - sum(shortfalls) / sum(best)
        else:
            self._barren_congested += overload > 0
        self._congested += overload > 0
        self._cost += sum(costs)
        return {agent: -cost for agent, cost in zip(answers, costs, strict=True)}, set()
