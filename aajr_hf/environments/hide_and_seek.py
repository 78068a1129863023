"""
`hide_and_seek`: hiders and seekers on a dark grid with walls. Each turn, every agent reads a number for each possible
move. It answers with a move and with the teammate (`mate`) that it tells about the agents it has seen.

Seekers carry torches: hiders see them from far away, and they see only the cells next to them. For each move, a hider
reads how near the nearest known seeker would be. A seeker reads how far its target would be: the nearest known hider or,
without one, the end of its patrol. The best move has the lowest number. A hider that is found is out. The mate cannot
endanger anybody, but must match the observation exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from .base import TextWorld
from .grid import MOVES, Cell, Grid

SIZE = 11
WALLS = 8
# Distances, in rows and columns: how far a torch lights, and how far away it can be seen.
LIGHT = 1
TORCH_VISIBLE = 10
# Moves of a seeker in four turns. Hiders move in every turn.
SEEKER_SPEED = 2
# Larger distances are reported as this number.
FAR = 9
# Costs of any move other than the best one, and per point by which its number is worse.
STRAY_COST = 1.0
WORSE_COST = 2.0

_ANSWER = re.compile(rf"go ({'|'.join(MOVES)}) tell (\d+)")


@dataclass(frozen=True)
class Move:
    """An action: the direction of the move, and the index of the mate that the agent tells about its sightings."""

    direction: str
    mate: int

    def text(self) -> str:
        return f"go {self.direction} tell {self.mate}"

    @staticmethod
    def parse(text: str) -> Move | None:
        """Return the answer written in `text`, or None if the text is not a valid answer."""
        match = _ANSWER.fullmatch(text.strip())
        return Move(match[1], int(match[2])) if match else None


@dataclass(frozen=True)
class View:
    """
    The observation of one agent: its role, the turn, its position, the badness of each move (in the order of `MOVES`;
    None for a wall), its mate.
    """

    role: str
    turn: int
    at: Cell
    badness: tuple[int | None, ...]
    mate: int

    def text(self) -> str:
        moves = " ".join(
            f"{move} {'wall' if bad is None else bad}" for move, bad in zip(MOVES, self.badness, strict=True)
        )
        return f"{self.role} turn {self.turn} at {self.at[0]} {self.at[1]} {moves} mate {self.mate}"

    def expert(self) -> Move:
        """Return the best answer: the first move with the lowest number, and the mate as observed."""
        bad, direction = min((b, i) for i, b in enumerate(self.badness) if b is not None)
        return Move(list(MOVES)[direction], self.mate)

    def candidates(self) -> list[tuple[Move, float]]:
        """Return the expert's answer with every move, and the system costs."""
        return [(Move(direction, self.mate), self.cost(direction)) for direction in MOVES]

    def cost(self, direction: str) -> float:
        """Return the system cost of a move. An agent that runs into a wall stays where it is."""
        best = self.expert().direction
        if direction == best:
            return 0.0
        bad = dict(zip(MOVES, self.badness, strict=True))
        there = bad["stay"] if bad[direction] is None else bad[direction]
        return STRAY_COST + WORSE_COST * (there - bad[best])


class HideAndSeekEnv(TextWorld):
    """
    The world `hide_and_seek`. Three of ten agents are seekers. All agents move at the same time, hiders twice as fast.
    A hider's reward is -1 when it is found, and it then leaves the episode. A seeker's reward is the number of hiders
    that it finds. The null action stays in place and tells nobody.
    """

    metadata = {"name": "hide_and_seek_v0", "render_modes": ["ansi"], "is_parallelizable": True}
    parse = staticmethod(Move.parse)
    default_steps = 24
    # The fewest agents with which each of them has a mate.
    fewest_agents = 4
    most_agents = 40
    success = "hidden"
    two_sided = True
    shocks = {
        "faster_seeker": "number of further moves of each seeker in four turns",
        "false_sightings": "number of seekers that each hider sees although they are not there",
    }

    @classmethod
    def variant(cls, rng: np.random.Generator, observation: View) -> View:
        """
        Return the observation in another turn and at another place, because the best move depends on the moves' numbers
        alone. The place is not at the edge, so that walls can be on any side of it.
        """
        x, y = rng.integers(1, SIZE - 1, size=2).tolist()
        return replace(observation, turn=int(rng.integers(cls.default_steps)), at=(x, y))

    @classmethod
    def sample(cls, rng: np.random.Generator, agents: int) -> list[View]:
        return cls(agents)._at_random_step(rng)

    def _at_random_step(self, rng: np.random.Generator) -> list[View]:
        self._rng, self.agents = rng, self.possible_agents
        self._start()
        self.step_count = int(rng.integers(self.steps))
        return self._see()

    def metrics(self) -> dict[str, float]:
        """
        Return `hidden` (share of hiders that were not found), `win` (1 if no hider was found) and `hidden_turns` (share
        of turns that a hider stayed hidden, averaged over hiders).
        """
        hiders, turns = len(self._hiders), max(self.step_count, 1)
        return {
            "hidden": 1 - len(self._found) / hiders,
            "win": float(not self._found),
            "hidden_turns": 1 - sum(turns - turn for turn in self._found.values()) / (hiders * turns),
        }

    def plot(self, axes) -> None:
        """Draw the grid: walls, seekers, the cells that their torches light, hiders."""
        picture = np.ones((SIZE, SIZE, 3))
        for cell in self._grid.cells:
            if any(self._grid.sees(self._at[seeker], cell, LIGHT) for seeker in self._seekers):
                picture[cell[1], cell[0]] = 1.0, 0.88, 0.7
        for x, y in self._grid.walls:
            picture[y, x] = 0.25
        axes.imshow(picture)
        groups = {
            "hider": ([hider for hider in self._hiders if hider not in self._found], "o", "#0072B2"),
            "found": (list(self._found), "X", "#999999"),
            "seeker": (self._seekers, "^", "#D55E00"),
        }
        for label, (agents, marker, color) in groups.items():
            x, y = [self._at[agent][0] for agent in agents], [self._at[agent][1] for agent in agents]
            axes.plot(x, y, marker, linestyle="none", color=color, markersize=11, markeredgecolor="white", label=label)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"turn {self.step_count}: {len(self._hiders) - len(self._found)} of {len(self._hiders)} hidden")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False)

    def _names(self, agents: int) -> list[str]:
        seekers = max(2, 3 * agents // 10)
        self._seekers = [f"seeker_{i}" for i in range(seekers)]
        self._hiders = [f"hider_{i}" for i in range(agents - seekers)]
        return self._hiders + self._seekers

    @property
    def opponents(self) -> list[str]:
        return self._seekers

    def _start(self) -> None:
        self._grid = Grid.sample(self._rng, SIZE, WALLS)
        self._at: dict[str, Cell] = {seeker: self._any_cell() for seeker in self._seekers}
        dark = [
            cell
            for cell in self._grid.cells
            if not any(self._grid.sees(self._at[seeker], cell, LIGHT) for seeker in self._seekers)
        ]
        self._at |= {hider: dark[self._rng.integers(len(dark))] for hider in self._hiders}
        self._patrol = {seeker: self._any_cell() for seeker in self._seekers}
        self._told: dict[str, set[Cell]] = {agent: set() for agent in self.possible_agents}
        # Maps each found hider to the turn in which it was found.
        self._found: dict[str, int] = {}

    def _any_cell(self) -> Cell:
        return self._grid.cells[self._rng.integers(len(self._grid.cells))]

    def _see(self) -> list[View]:
        self._sightings = {agent: self._sighted(agent) for agent in self.agents}
        views = []
        for agent in self.agents:
            known = self._sightings[agent] | self._told[agent]
            seeks = agent in self._seekers
            badness = self._distances(agent, known) if seeks else self._nearness(agent, known)
            mate = int(self._rng.integers(1, len(self._team(agent))))
            views.append(View("seek" if seeks else "hide", self.step_count, self._at[agent], badness, mate))
        return views

    def _team(self, agent: str) -> list[str]:
        return self._seekers if agent in self._seekers else self._hiders

    def _sighted(self, agent: str) -> set[Cell]:
        """Return the cells where the agent sees an opponent, or falsely believes to see one."""
        here = self._at[agent]
        if agent in self._seekers:
            hiding = [self._at[hider] for hider in self._hiders if hider not in self._found]
            return {cell for cell in hiding if self._grid.sees(here, cell, LIGHT)}
        found = {
            self._at[seeker] for seeker in self._seekers if self._grid.sees(here, self._at[seeker], TORCH_VISIBLE)
        }
        return found | {self._any_cell() for _ in range(self.shock_size("false_sightings"))}

    def _nearness(self, agent: str, known: set[Cell]) -> tuple[int | None, ...]:
        """Return for each move the nearness of the nearest known seeker: FAR minus its distance, at least 0."""
        distances = [self._grid.distances(seeker) for seeker in known]
        cells = [self._grid.after(self._at[agent], move) for move in MOVES]
        return tuple(
            None if cell is None else max((FAR - d[cell] for d in distances if d[cell] < FAR), default=0)
            for cell in cells
        )

    def _distances(self, agent: str, known: set[Cell]) -> tuple[int | None, ...]:
        """Return for each move the distance to the nearest known hider or, without one, to the end of the patrol."""
        here = self._at[agent]
        if not known and here == self._patrol[agent]:
            self._patrol[agent] = self._any_cell()
        from_here = self._grid.distances(here)
        target = min(known, key=lambda cell: (from_here[cell], cell)) if known else self._patrol[agent]
        distances = self._grid.distances(target)
        cells = [self._grid.after(here, move) for move in MOVES]
        return tuple(None if cell is None else min(distances[cell], FAR) for cell in cells)

    def _play(self, answers: dict[str, Move | None]) -> tuple[dict[str, float], set[str]]:
        self._told = {agent: set() for agent in self.possible_agents}
        moves = self._seeker_moves()
        for agent, answer in answers.items():
            if answer is None:
                continue
            mates = [mate for mate in self._team(agent) if mate != agent]
            if 1 <= answer.mate <= len(mates):
                self._told[mates[answer.mate - 1]] |= self._sightings[agent]
            if agent in self._hiders or moves:
                self._at[agent] = self._grid.after(self._at[agent], answer.direction) or self._at[agent]
        rewards, out = dict.fromkeys(answers, 0.0), set()
        # Hiders can be found both before and after a second move of the seekers.
        for move in range(max(moves, 1)):
            if move:
                self._run_on(answers)
            out |= self._find(rewards)
        return rewards, out

    def _seeker_moves(self) -> int:
        """Return the number of moves of a seeker in this turn: `SEEKER_SPEED` in four turns, more under shock."""
        speed = SEEKER_SPEED + self.shock_size("faster_seeker")
        return (self.step_count + 1) * speed // 4 - self.step_count * speed // 4

    def _run_on(self, answers: dict[str, Move | None]) -> None:
        """Make the second move of the seekers: the best one, given what they see after the first."""
        for seeker in self._seekers:
            if answers[seeker] is not None:
                view = View(
                    "seek", self.step_count, self._at[seeker], self._distances(seeker, self._sighted(seeker)), 1
                )
                self._at[seeker] = self._grid.after(self._at[seeker], view.expert().direction)

    def _find(self, rewards: dict[str, float]) -> set[str]:
        """Return the hiders that a torch lights now, and mark them as found."""
        out = set()
        for hider in self._hiders:
            seekers = [s for s in self._seekers if self._grid.sees(self._at[s], self._at[hider], LIGHT)]
            if seekers and hider not in self._found:
                self._found[hider] = self.step_count + 1
                out.add(hider)
                rewards[hider] = -1.0
                for seeker in seekers:
                    rewards[seeker] += 1
        return out
