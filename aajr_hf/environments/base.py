"""Base class of all worlds: text observations and actions, seeded episodes, shocks, the null action."""

from __future__ import annotations

import string
from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

_LARGEST_SHOCK = 100
_CHARACTERS = string.ascii_letters + string.digits + " "


class Answer(Protocol):
    """An action of an agent."""

    def text(self) -> str: ...


class Observation(Protocol):
    """The observation of one agent at one step."""

    def text(self) -> str: ...

    def expert(self) -> Answer:
        """Return the best answer that can be derived from the observation alone."""

    def candidates(self) -> list[tuple[Answer, float]]:
        """Return the expert's answer and the answers that differ from it in one word, each with its system cost."""


class TextWorld(ParallelEnv):
    """
    A world as a PettingZoo `ParallelEnv` whose observations and actions are texts. An answer that cannot be parsed is
    marked `malformed` in `infos` and counts as the null action, which never endangers the system.

    A subclass samples the state of a new episode (`_start`), returns the agents' observations (`_see`), plays a joint
    action (`_play`), and measures the episode (`metrics`).

    Args:
        agents: Number of agents.
        steps: Number of steps of an episode. Default: `default_steps` of the world.
        shock: Kind of shock, one of `shocks`, that starts after the first third of the episode; None for no shock.
        magnitude: Strength of the shock, at least 1, in the units given in `shocks`; 0 without a shock.

    Raises:
        ValueError: if the world does not support a number of agents or steps, a shock or a magnitude; names the
            argument.
    """

    # Maps each kind of shock to the unit of its magnitude.
    shocks: ClassVar[dict[str, str]] = {}
    default_steps: ClassVar[int]
    fewest_agents: ClassVar[int] = 2
    most_agents: ClassVar[int] = 100
    # Name of the metric, between 0 and 1, that says how well the episode went.
    success: ClassVar[str]
    # Whether the opponents play against the other agents. They are then scripted unless a model is given for them.
    two_sided: ClassVar[bool] = False
    # First word of an observation's last part, which the agent alone knows, if the part before it comes from peers. The last
    # part alternates words and values.
    own_from: ClassVar[str | None] = None

    def __init__(
        self,
        agents: int = 10,
        steps: int | None = None,
        shock: str | None = None,
        magnitude: int = 0,
        render_mode: str | None = None,
    ):
        steps = self.default_steps if steps is None else steps
        if not self.fewest_agents <= agents <= self.most_agents:
            raise ValueError(f"`agents` must be from {self.fewest_agents} to {self.most_agents}; got {agents}.")
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {steps}.")
        if shock is not None and shock not in self.shocks:
            raise ValueError(f"`shock` must be one of {', '.join(self.shocks)}; got {shock!r}.")
        # A shock of magnitude 0 changes nothing, but the results would say that the agents withstood it.
        least, most = (0, 0) if shock is None else (1, _LARGEST_SHOCK)
        if not least <= magnitude <= most:
            raise ValueError(
                f"`magnitude` must be from 1 to {_LARGEST_SHOCK}, or 0 without a `shock`; got {magnitude}."
            )
        self.possible_agents = self._names(agents)
        self.agents: list[str] = []
        self.steps, self.shock, self.magnitude = steps, shock, magnitude
        self.step_count = 0
        self.render_mode = render_mode
        self._rng = np.random.default_rng()
        self._current: dict[str, Observation] = {}
        self._observation_space = gymnasium.spaces.Text(max_length=80 + 4 * agents, charset=_CHARACTERS)
        self._action_space = gymnasium.spaces.Text(max_length=64, charset=_CHARACTERS)

    @classmethod
    @abstractmethod
    def sample(cls, rng: np.random.Generator, agents: int) -> list[Observation]:
        """Return the observations of all agents at one random moment. The expert data is made from them."""

    @staticmethod
    @abstractmethod
    def parse(text: str) -> Answer | None:
        """Return the answer written in `text`, or None if the text is not a valid answer."""

    @staticmethod
    def variant(rng: np.random.Generator, observation: Observation) -> Observation | None:
        """
        Return an observation that differs from the given one at random in what changes neither the best answer nor the cost
        of any answer. None, the default, if the world has no such observations.
        """
        return None

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return the metrics of the episode so far."""

    @abstractmethod
    def plot(self, axes) -> None:
        """Draw the current state of the world on matplotlib axes."""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _see(self) -> list[Observation]: ...

    @abstractmethod
    def _play(self, answers: dict[str, Answer | None]) -> tuple[dict[str, float], set[str]]:
        """Play the joint action, None for a malformed answer; return the rewards and the agents that are out."""

    def _names(self, agents: int) -> list[str]:
        return [f"agent_{i}" for i in range(agents)]

    @property
    def opponents(self) -> list[str]:
        """The agents that an opponent plays, if one is given. Default: every second agent."""
        return self.possible_agents[1::2]

    @property
    def shocked(self) -> bool:
        """Whether a shock is active now."""
        return self.shock is not None and self.step_count >= self.steps // 3

    def shock_size(self, kind: str) -> int:
        """Return the magnitude of this kind of shock; 0 if it is not active now."""
        return self.magnitude if self.shocked and self.shock == kind else 0

    def observation_space(self, agent: str) -> gymnasium.spaces.Text:
        return self._observation_space

    def action_space(self, agent: str) -> gymnasium.spaces.Text:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.step_count = 0
        self._start()
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, str]):
        answers = {agent: self.parse(actions[agent]) for agent in self.agents}
        rewards, out = self._play(answers)
        infos = {agent: {"malformed": answer is None} for agent, answer in answers.items()}
        self.step_count += 1
        observations = self._observe()
        terminations = {agent: agent in out for agent in self.agents}
        truncations = {agent: agent not in out and self.step_count >= self.steps for agent in self.agents}
        self.agents = [agent for agent in self.agents if not (terminations[agent] or truncations[agent])]
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str:
        return "\n".join(f"{agent}: {observation.text()}" for agent, observation in self._current.items())

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the current observation of each agent as a row of expert data."""
        return {agent: expert_row(self._current[agent]) for agent in self.agents}

    def expert_actions(self) -> dict[str, str]:
        """Return the expert's answers to the current observations."""
        return {agent: self._current[agent].expert().text() for agent in self.agents}

    def _observe(self) -> dict[str, str]:
        self._current = dict(zip(self.agents, self._see(), strict=True))
        return {agent: observation.text() for agent, observation in self._current.items()}


def expert_row(observation: Observation) -> dict[str, Any]:
    """Return `prompt` and `completion` (lists of messages), `actions` and `action_costs` of one observation."""
    candidates = observation.candidates()
    return {
        "prompt": [{"role": "user", "content": observation.text()}],
        "completion": [{"role": "assistant", "content": observation.expert().text()}],
        "actions": [answer.text() for answer, _ in candidates],
        "action_costs": [cost for _, cost in candidates],
    }
