"""
`commons`: N agents fish in one lake for a year. Each month, every agent reads the stock of the lake, the regrowth (the
largest catch that grows back), its own share of the regrowth, and the catch that each other agent announces. It answers
with the units it catches, the ground, and the warden it tells.

A catch above the regrowth reduces the stock for everybody, and below a threshold the lake dies. Catching too much
therefore costs far more than catching too little. Ground and warden do not affect the lake, but must match the
observation exactly. The world and its metrics follow GovSim (Piatti et al., arXiv 2404.16698).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from .base import TextWorld

CAPACITY = 40
# The lake dies below this stock.
COLLAPSE = 5
GROUNDS = "abcd"
MAX_CATCH = 9
# Next month's stock, in percent of the units left after the catch.
GROWTH = 200
# Costs per unit caught above the expert's catch, and per unit caught below it.
OVERUSE_COST = 10.0
SHORTFALL_COST = 1.0

_ANSWER = re.compile(rf"catch (\d) at ([{GROUNDS}]) tell (\d+)")


@dataclass(frozen=True)
class Catch:
    """An action: the units caught, the ground, and the index of the warden that the agent tells."""

    units: int
    ground: str
    warden: int

    def text(self) -> str:
        return f"catch {self.units} at {self.ground} tell {self.warden}"

    @staticmethod
    def parse(text: str) -> Catch | None:
        """Return the answer written in `text`, or None if the text is not a valid answer."""
        match = _ANSWER.fullmatch(text.strip())
        return Catch(int(match[1]), match[2], int(match[3])) if match else None


@dataclass(frozen=True)
class Lake:
    """
    The observation of one agent: the month, its catch so far, the stock, the regrowth, the catch that each other agent
    announces, its ground, its warden.
    """

    month: int
    caught: int
    stock: int
    regrowth: int
    announced: tuple[int, ...]
    ground: str
    warden: int

    @property
    def share(self) -> int:
        """The agent's equal share of the regrowth, at most `MAX_CATCH`."""
        return min(self.regrowth // (len(self.announced) + 1), MAX_CATCH)

    @property
    def left(self) -> int:
        """The regrowth minus the catches that the others announce, at least 0."""
        return max(self.regrowth - sum(self.announced), 0)

    def text(self) -> str:
        others = " ".join(map(str, self.announced))
        lake = (
            f"month {self.month} caught {self.caught} stock {self.stock} regrowth {self.regrowth} share {self.share}"
        )
        return f"{lake} others {others} ground {self.ground} warden {self.warden}"

    def expert(self) -> Catch:
        """Return the best answer: the share, but at most what the others leave; ground and warden as observed."""
        return Catch(min(self.share, self.left), self.ground, self.warden)

    def candidates(self) -> list[tuple[Catch, float]]:
        """Return the expert's answer with every possible catch, from 0 to 9 units, and the system costs."""
        return [(replace(self.expert(), units=units), self.cost(units)) for units in range(MAX_CATCH + 1)]

    def cost(self, units: int) -> float:
        """Return the system cost of catching `units`."""
        best = self.expert().units
        return OVERUSE_COST * max(units - best, 0) + SHORTFALL_COST * max(best - units, 0)


def sustainable(stock: int, growth: int) -> int:
    """Return the largest total catch after which `growth` percent of the rest is at least the stock again."""
    return max(stock - -(-100 * stock // growth), 0)


def sample_lakes(
    rng: np.random.Generator, month: int, caught: list[int], stock: int, growth: int = GROWTH
) -> list[Lake]:
    """
    Sample the observations of all agents in one month, given each agent's catch so far. Most agents announce about
    their share of the regrowth; in half of the months, some announce more.
    """
    agents, regrowth = len(caught), sustainable(stock, growth)
    share = min(regrowth // agents, MAX_CATCH)
    announced = share - rng.choice(2, size=agents, p=(0.8, 0.2))
    if rng.random() < 0.5:
        announced += rng.choice(3, size=agents, p=(0.7, 0.2, 0.1))
    announced = np.clip(announced, 0, MAX_CATCH)
    lakes = []
    for i in range(agents):
        others = tuple(int(units) for j, units in enumerate(announced) if j != i)
        ground = GROUNDS[rng.integers(len(GROUNDS))]
        lakes.append(Lake(month, caught[i], stock, regrowth, others, ground, int(rng.integers(1, agents))))
    return lakes


class CommonsEnv(TextWorld):
    """
    The world `commons`. An agent's reward is its catch. If the agents want more than the stock, the stock is shared in
    proportion. The episode ends after twelve months, or when the lake is dead. The null action catches nothing.
    """

    metadata = {"name": "commons_v0", "render_modes": ["ansi"], "is_parallelizable": True}
    parse = staticmethod(Catch.parse)
    default_steps = 12
    # With more agents, each share of a full lake would be less than one unit.
    most_agents = 20
    success = "harvest"
    own_from = "ground"
    shocks = {
        "greedy_newcomer": "number of units that the last agent catches in addition to its share, whatever it reads",
        "bad_season": "reduction of the growth rate of the stock, in percentage points",
    }

    @classmethod
    def variant(cls, rng: np.random.Generator, observation: Lake) -> Lake:
        """
        Return the observation with the others in another order, in another month, and after another catch so far: what is
        best depends on the lake and on the sum of the others' announcements.
        """
        month = int(rng.integers(1, cls.default_steps + 1))
        announced = tuple(rng.permutation(observation.announced).tolist())
        return replace(observation, month=month, caught=int(rng.integers(0, 2 * month)), announced=announced)

    @classmethod
    def sample(cls, rng: np.random.Generator, agents: int) -> list[Lake]:
        # Often a full lake, because the lake stays full as long as nobody catches too much.
        stock = CAPACITY if rng.random() < 0.4 else int(rng.integers(COLLAPSE, CAPACITY + 1))
        month = int(rng.integers(1, cls.default_steps + 1))
        caught = rng.integers(0, 2 * month, size=agents).tolist()
        return sample_lakes(rng, month, caught, stock)

    def metrics(self) -> dict[str, float]:
        """
        Return the metrics of the episode so far.

        Metrics of GovSim: `survival` (1 if the lake is alive), `survival_time` (months), `gain` (mean units caught per
        agent), `efficiency` (total catch over the largest sustainable catch from a full lake, at most 1), `equality`
        (1 - Gini coefficient of the gains), `over_use` (share of catches that exceed the agent's share of the
        regrowth).

        `harvest` is the share of the experts' catch that was caught, averaged over the months in which experts would
        catch something; months after the death of the lake count as 0. A greedy newcomer's catch counts in all metrics
        except `harvest`. Catching more than an expert raises `over_use` and `gain` but not `harvest`, which falls
        only because less is left for later months.
        """
        gains = np.array(self._gains)
        months = self._fertile + (self.steps - self.step_count) * self._dead
        possible = self.steps * sustainable(CAPACITY, GROWTH)
        efficiency = 1 - max(possible - gains.sum(), 0) / max(possible, 1)
        differences = np.abs(gains[:, None] - gains).sum()
        return {
            "survival": float(not self._dead),
            "survival_time": float(self.step_count),
            "gain": float(gains.mean()),
            "efficiency": float(efficiency),
            "equality": float(1 - differences / (2 * len(gains) * gains.sum())) if gains.sum() else 1.0,
            "over_use": self._overused / max(self.step_count * len(gains), 1),
            "harvest": self._harvest / months if months else 1.0,
        }

    def plot(self, axes) -> None:
        """Plot the stock of each month so far."""
        axes.plot(range(len(self._stocks)), self._stocks, color="#0072B2", marker="o")
        axes.axhline(COLLAPSE, color="#D55E00", linestyle="--", label="collapse")
        axes.set(xlabel="month", ylabel="units in the lake", xlim=(0, self.steps), ylim=(0, CAPACITY * 1.05))
        axes.set_title(
            f"month {self.step_count}: {'dead' if self._dead else 'alive'}, gain {np.mean(self._gains):.1f}"
        )
        axes.legend(loc="center right")

    def _start(self) -> None:
        self._stock, self._stocks, self._dead = CAPACITY, [CAPACITY], False
        self._gains = [0.0] * len(self.possible_agents)
        self._overused, self._fertile, self._harvest = 0, 0, 0.0

    def _growth(self) -> int:
        return max(GROWTH - self.shock_size("bad_season"), 100)

    def _see(self) -> list[Lake]:
        self._lakes = sample_lakes(
            self._rng, self.step_count + 1, list(map(int, self._gains)), self._stock, self._growth()
        )
        greed = self.shock_size("greedy_newcomer")
        if greed:  # the newcomer announces its true catch
            units = self._greedy(greed)
            self._lakes = [replace(x, announced=(*x.announced[:-1], units)) for x in self._lakes[:-1]] + self._lakes[
                -1:
            ]
        return self._lakes

    def _greedy(self, greed: int) -> int:
        return min(self._lakes[-1].share + greed, MAX_CATCH)

    def _play(self, answers: dict[str, Catch | None]) -> tuple[dict[str, float], set[str]]:
        wanted = [answer.units if answer else 0 for answer in answers.values()]
        greed = self.shock_size("greedy_newcomer")
        if greed:
            wanted[-1] = self._greedy(greed)
        best = [lake.expert().units for lake in self._lakes][: -1 if greed else None]
        part = min(1.0, self._stock / max(sum(wanted), 1))
        catches = [part * units for units in wanted]
        if any(best):
            self._fertile += 1
            self._harvest += sum(map(min, catches, best)) / sum(best)
        self._overused += sum(units > self._lakes[0].share for units in wanted)
        self._gains = [gain + units for gain, units in zip(self._gains, catches, strict=True)]
        left = self._stock - sum(catches)
        self._dead = left < COLLAPSE
        self._stock = 0 if self._dead else min(int(left * self._growth() / 100), CAPACITY)
        self._stocks.append(self._stock)
        return dict(zip(answers, catches, strict=True)), set(answers) if self._dead else set()
