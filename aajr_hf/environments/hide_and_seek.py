"""
`hide_and_seek`: hiders and seekers on a dark grid with walls. Each turn, everybody reads what every move would lead to and
answers where it goes and which mate it tells whom it has seen.

Seekers carry torches: they are seen from afar, and see what is next to them. A hider reads how near the nearest seeker that it
knows of would be, a seeker how far its target would be: the nearest hider that it knows of, or else the end of its patrol. The
best move has the lowest number. A hider that is found is out. The mate endangers nobody, but must follow the observation to
the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .base import TextWorld
from .grid import MOVES, Cell, Grid

SIZE = 11
WALLS = 8
# Rows and columns that a torch lights, and from which it is seen.
LIGHT = 1
TORCH_VISIBLE = 10
# Moves of a seeker in four turns; hiders move in every turn.
SEEKER_SPEED = 2
# Distances beyond this are not told apart.
FAR = 9
# Of any other move than the best one, and per number by which it is worse.
STRAY_COST = 1.0
WORSE_COST = 2.0

_ANSWER = re.compile(rf"go ({'|'.join(MOVES)}) tell (\d+)")


@dataclass(frozen=True)
class Move:
    """What an agent does: where it goes, and the index of the mate that it tells whom it has seen."""

    direction: str
    mate: int

    def text(self) -> str:
        return f"go {self.direction} tell {self.mate}"

    @staticmethod
    def parse(text: str) -> Move | None:
        """The answer that `text` states, or None where it states none."""
        match = _ANSWER.fullmatch(text.strip())
        return Move(match[1], int(match[2])) if match else None


@dataclass(frozen=True)
class View:
    """
    What one agent sees: its part, the turn, where it is, for every move (in the order of `MOVES`) how bad it is or None for a wall, its
    mate.
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
        """The best answer: the first of the moves with the lowest number, and the mate as told."""
        bad, direction = min((b, i) for i, b in enumerate(self.badness) if b is not None)
        return Move(list(MOVES)[direction], self.mate)

    def candidates(self) -> list[tuple[Move, float]]:
        """The expert's answer with every move."""
        return [(Move(direction, self.mate), self.cost(direction)) for direction in MOVES]

    def cost(self, direction: str) -> float:
        """System cost of a move; whoever runs into a wall stays."""
        best = self.expert().direction
        if direction == best:
            return 0.0
        bad = dict(zip(MOVES, self.badness, strict=True))
        there = bad["stay"] if bad[direction] is None else bad[direction]
        return STRAY_COST + WORSE_COST * (there - bad[best])


class HideAndSeekEnv(TextWorld):
    """
    Of ten agents, three seek. Everybody moves at once, hiders twice as fast. A hider's reward is -1 when it is found, which ends
    its part; a seeker's is the number of hiders that it finds. The null action stays where it is and tells nobody.
    """

    metadata = {"name": "hide_and_seek_v0", "render_modes": ["ansi"], "is_parallelizable": True}
    parse = staticmethod(Move.parse)
    default_steps = 24
    # So that everybody has a mate.
    fewest_agents = 4
    most_agents = 40
    success = "hidden"
    two_sided = True
    shocks = {
        "faster_seeker": "further moves of each seeker in four turns",
        "false_sightings": "seekers that each hider sees where there are none",
    }

    @classmethod
    def sample(cls, rng: np.random.Generator, agents: int) -> list[View]:
        return cls(agents)._at_random_step(rng)

    def _at_random_step(self, rng: np.random.Generator) -> list[View]:
        self._rng, self.agents = rng, self.possible_agents
        self._start()
        self.step_count = int(rng.integers(self.steps))
        return self._see()

    def metrics(self) -> dict[str, float]:
        """`hidden`: share of hiders that were not found; `win`: 1 if it is all of them; `hidden_turns`: mean share of turns."""
        hiders, turns = len(self._hiders), max(self.step_count, 1)
        return {
            "hidden": 1 - len(self._found) / hiders,
            "win": float(not self._found),
            "hidden_turns": 1 - sum(turns - turn for turn in self._found.values()) / (hiders * turns),
        }

    def plot(self, axes) -> None:
        """The grid: walls, seekers and what they light, hiders."""
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
        # Hiders that are out, with the turn at which they were found.
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
        """The cells where it sees an agent of the other side, or believes to."""
        here = self._at[agent]
        if agent in self._seekers:
            hiding = [self._at[hider] for hider in self._hiders if hider not in self._found]
            return {cell for cell in hiding if self._grid.sees(here, cell, LIGHT)}
        found = {
            self._at[seeker] for seeker in self._seekers if self._grid.sees(here, self._at[seeker], TORCH_VISIBLE)
        }
        return found | {self._any_cell() for _ in range(self.shock_size("false_sightings"))}

    def _nearness(self, agent: str, known: set[Cell]) -> tuple[int | None, ...]:
        """For each move, how near the nearest known seeker would be: FAR minus the moves to it, at least 0."""
        distances = [self._grid.distances(seeker) for seeker in known]
        cells = [self._grid.after(self._at[agent], move) for move in MOVES]
        return tuple(
            None if cell is None else max((FAR - d[cell] for d in distances if d[cell] < FAR), default=0)
            for cell in cells
        )

    def _distances(self, agent: str, known: set[Cell]) -> tuple[int | None, ...]:
        """For each move, how many moves would remain to the nearest known hider or, without one, to the end of the patrol."""
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
        # Found before a second move of the seekers, too.
        for move in range(max(moves, 1)):
            if move:
                self._run_on(answers)
            out |= self._find(rewards)
        return rewards, out

    def _seeker_moves(self) -> int:
        """How often seekers move in this turn, so that it is `SEEKER_SPEED` in four turns, and more under shock."""
        speed = SEEKER_SPEED + self.shock_size("faster_seeker")
        return (self.step_count + 1) * speed // 4 - self.step_count * speed // 4

    def _run_on(self, answers: dict[str, Move | None]) -> None:
        """Seekers that move twice take the best second move, by what they know then."""
        for seeker in self._seekers:
            if answers[seeker] is not None:
                view = View(
                    "seek", self.step_count, self._at[seeker], self._distances(seeker, self._sighted(seeker)), 1
                )
                self._at[seeker] = self._grid.after(self._at[seeker], view.expert().direction)

    def _find(self, rewards: dict[str, float]) -> set[str]:
        """The hiders that are in the light of a torch now: they are out."""
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
