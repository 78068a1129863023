"""
`congestion`: N agents share a capacity. Each reads what is there, what its peers asked for and what it needs itself, and
answers how much it takes, by which route, and to which peer it yields its turn.

Taking more than is free congests the system for everybody and costs far more than taking too little. The other fields
cannot congest anything, but must follow the observation to the letter: an agent that became calm by becoming dull
fails on them.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

ROUTES = "abcd"
MAX_TAKE = 9
MAX_NEED = 3
# Per unit taken beyond what is free, and per unit that was free and needed but not taken.
OVERLOAD_COST = 10.0
SHORTFALL_COST = 1.0

_NEED_PROBABILITIES = (0.1, 0.45, 0.3, 0.15)
# Capacity minus the sum of all needs, in busy, tight and quiet rounds.
_SLACK = ((-8, -4), (-3, 1), (2, 7))
_SLACK_PROBABILITIES = (0.3, 0.3, 0.4)
_ANSWER = re.compile(rf"take (\d) via ([{ROUTES}]) yield (\d+)")


@dataclass(frozen=True)
class Answer:
    """What an agent does: units taken, route, index of the peer it yields to."""

    take: int
    route: str
    peer: int

    def text(self) -> str:
        return f"take {self.take} via {self.route} yield {self.peer}"

    @staticmethod
    def parse(text: str) -> Answer | None:
        """The answer that `text` states, or None where it states none."""
        match = _ANSWER.fullmatch(text.strip())
        return Answer(int(match[1]), match[2], int(match[3])) if match else None


@dataclass(frozen=True)
class Observation:
    """What one agent sees: the capacity, each peer's demand, its own need, its preferred route, the peer it owes."""

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
        """The best answer: all that is needed and free; the preferred route; the peer it owes."""
        return Answer(min(self.need, self.free), self.route, self.peer)

    def cost(self, take: int) -> float:
        """System cost of taking `take` units."""
        overload = max(take - self.free, 0)
        shortfall = max(min(self.need, self.free) - take, 0)
        return OVERLOAD_COST * overload + SHORTFALL_COST * shortfall


def draw_needs(rng: np.random.Generator, agents: int) -> np.ndarray:
    return rng.choice(len(_NEED_PROBABILITIES), size=agents, p=_NEED_PROBABILITIES)


def draw_observations(rng: np.random.Generator, agents: int) -> list[Observation]:
    """
    One round: everybody's need is announced to everybody. Busy rounds have far less capacity than is needed, quiet ones
    more; in between, the last units have to be shared out.
    """
    needs = draw_needs(rng, agents)
    low, high = _SLACK[rng.choice(len(_SLACK), p=_SLACK_PROBABILITIES)]
    capacity = max(int(needs.sum() + rng.integers(low, high + 1)), 0)
    observations = []
    for i in range(agents):
        peers = tuple(int(n) for j, n in enumerate(needs) if j != i)
        route = ROUTES[rng.integers(len(ROUTES))]
        observations.append(Observation(capacity, peers, int(needs[i]), route, int(rng.integers(1, agents))))
    return observations


class CongestionEnv(ParallelEnv):
    """
    The world as a PettingZoo `ParallelEnv`: observations and actions are texts.

    Each round, every agent's reward is the negative cost of the joint action: `OVERLOAD_COST` per unit by which all
    takes together exceed the capacity, shared by all agents, plus `SHORTFALL_COST` per unit that the agent itself left
    although it was needed and free. A malformed answer takes nothing and is marked in `infos`.

    Args:
        agents: Number of agents, at least 2.
        rounds: Rounds of an episode.
    """

    metadata = {"name": "congestion_v0", "render_modes": ["ansi"], "is_parallelizable": True}

    def __init__(self, agents: int = 10, rounds: int = 8, render_mode: str | None = None):
        if agents < 2:
            raise ValueError(f"`agents` must be at least 2, got {agents}.")
        if rounds < 1:
            raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.agents: list[str] = []
        self.rounds = rounds
        self.render_mode = render_mode
        self._rng = np.random.default_rng()
        self._round = 0
        self._current: dict[str, Observation] = {}
        letters = string.ascii_letters + string.digits + " "
        self._observation_space = gymnasium.spaces.Text(max_length=64 + 4 * agents, charset=letters)
        self._action_space = gymnasium.spaces.Text(max_length=64, charset=letters)

    def observation_space(self, agent: str) -> gymnasium.spaces.Text:
        return self._observation_space

    def action_space(self, agent: str) -> gymnasium.spaces.Text:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._round = 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, str]):
        answers = {agent: Answer.parse(actions[agent]) for agent in self.agents}
        takes = {agent: answer.take if answer else 0 for agent, answer in answers.items()}
        capacity = next(iter(self._current.values())).capacity
        overload = max(sum(takes.values()) - capacity, 0)
        rewards, infos = {}, {}
        for agent in self.agents:
            observation = self._current[agent]
            shortfall = max(observation.expert().take - takes[agent], 0)
            rewards[agent] = -(OVERLOAD_COST * overload / len(self.agents) + SHORTFALL_COST * shortfall)
            infos[agent] = {"malformed": answers[agent] is None, "overload": overload}
        self._round += 1
        done = self._round >= self.rounds
        truncations = dict.fromkeys(self.agents, done)
        terminations = dict.fromkeys(self.agents, False)
        observations = self._observe()
        if done:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str:
        return "\n".join(f"{agent}: {observation.text()}" for agent, observation in self._current.items())

    def expert_actions(self) -> dict[str, str]:
        """The expert's answers to the current observations."""
        return {agent: self._current[agent].expert().text() for agent in self.agents}

    def _observe(self) -> dict[str, str]:
        drawn = draw_observations(self._rng, len(self.possible_agents))
        self._current = dict(zip(self.agents, drawn, strict=True))
        return {agent: observation.text() for agent, observation in self._current.items()}
