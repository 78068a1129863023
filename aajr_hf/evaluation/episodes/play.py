"""Play whole episodes of multi-agent worlds, several in parallel, and summarise them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table

from ...training.policy.policy import fixed_seed
from ...training.sharing.results import EpisodeNumbers, Said
from ..reporting.statistics import mean_interval
from ..reporting.tables import plain_table
from .players import Player
from .sharing import told

# Far from any seed that counts up from 0, so that no episode repeats training data.
_FIRST_SEED = 3 * 10**6
MODEL, OPPONENT = "model", "opponent"
# Share of malformed answers above which the metrics of a world are those of a player that does nothing.
_ALMOST_ALL = 0.95


def episode_seeds(episodes: int, seed: int) -> list[int]:
    """Return the seeds of the episodes. Different values of `seed` give different episodes."""
    return [_FIRST_SEED * (seed + 1) + i for i in range(episodes)]


@dataclass
class _Side:
    """Counts of the answers that one player gave in an episode."""

    answers: int = 0
    malformed: int = 0
    expert: int = 0


@dataclass
class _Episode:
    """The state of a running episode."""

    world: Any
    seed: int
    rewards: dict[str, float]
    sides: dict[str, _Side]
    transcript: list[dict[str, Said]] = field(default_factory=list)

    def side(self, agent: str) -> str:
        return OPPONENT if OPPONENT in self.sides and agent in self.world.opponents else MODEL

    def step(self, rows: dict[str, dict[str, Any]], answers: dict[str, str], attacked: dict[str, Said]) -> None:
        _, rewards, _, _, infos = self.world.step(answers)
        for agent, answer in answers.items():
            side = self.sides[self.side(agent)]
            side.answers += 1
            side.malformed += infos[agent]["malformed"]
            side.expert += answer == rows[agent]["completion"][0]["content"]
            self.rewards[agent] += float(rewards[agent])
        self.transcript.append({agent: self._said(agent, rows[agent], answers[agent], attacked) for agent in answers})

    def _said(self, agent: str, row: dict[str, Any], answer: str, attacked: dict[str, Said]) -> Said:
        expert = row["completion"][0]["content"]
        said = {"side": self.side(agent), "sees": row["prompt"][-1]["content"], "says": answer, "expert": expert}
        return said | attacked.get(agent, {})

    def record(self, transcript: bool) -> EpisodeNumbers:
        result = {
            "seed": self.seed,
            "steps": self.world.step_count,
            "metrics": self.world.metrics(),
            "sides": {name: vars(side).copy() for name, side in self.sides.items()},
            "rewards": self.rewards,
        }
        return result | ({"transcript": self.transcript} if transcript else {})


def play(
    worlds: list[Any],
    seeds: list[int],
    player: Player,
    opponent: Player | None = None,
    *,
    share_cache: bool = False,
    transcript: bool = False,
    on_step: Callable[[list[Any]], None] = lambda worlds: None,
) -> Iterator[list[EpisodeNumbers]]:
    """
    Play one episode for each seed, in parallel in the given worlds. At every step, each player gets the prompts of all
    its agents in all worlds at once.

    Args:
        worlds: Worlds with equal settings. Their number is the number of parallel episodes.
        seeds: Seeds of the episodes. They also determine the random numbers of the players (sampled tokens, random
            starts of the attack).
        player: Plays all agents that the opponent does not play.
        opponent: Plays the `opponents` of the worlds; if None, `player` plays them, too.
        share_cache: Whether agents read messages of their peers ([`with_messages`]).
        transcript: Whether to keep the observations and answers of all agents.
        on_step: Called with the running worlds after every reset and every step.

    Yields:
        The records of the episodes that were played in parallel, in the order of their seeds: `seed`, `steps`,
        `metrics` of the world, `sides` (for `model` and, with an opponent, `opponent`: the number of `answers`, how
        many were `malformed`, and how many equal the `expert`'s), `rewards` (sum for each agent) and, with
        `transcript`, what each agent `sees` and `says` at each step, its `side`, the `expert`'s answer and, under
        attack, how far the embeddings of its prompt were `moved`, or the observation as it was before its words were
        changed (`unchanged`).
    """
    players = {MODEL: player} | ({} if opponent is None else {OPPONENT: opponent})
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    for start in range(0, len(seeds), len(worlds)):
        some = seeds[start : start + len(worlds)]
        with fixed_seed(device, some[0]):
            episodes = [_begin(world, seed, players) for world, seed in zip(worlds, some, strict=False)]
            on_step([episode.world for episode in episodes])
            while any(episode.world.agents for episode in episodes):
                _step(episodes, players, share_cache)
                on_step([episode.world for episode in episodes])
        yield [episode.record(transcript) for episode in episodes]


def _begin(world: Any, seed: int, players: dict[str, Player]) -> _Episode:
    world.reset(seed=seed)
    return _Episode(world, seed, dict.fromkeys(world.possible_agents, 0.0), {side: _Side() for side in players})


def _step(episodes: list[_Episode], players: dict[str, Player], share_cache: bool) -> None:
    """Play one step of every episode that is not over."""
    episodes = [episode for episode in episodes if episode.world.agents]
    rows = [told(episode.world) if share_cache else episode.world.rows() for episode in episodes]
    answers: list[dict[str, str]] = [dict.fromkeys(seen, "") for seen in rows]
    attacked: list[dict[str, Said]] = [{} for _ in rows]
    for side, player in players.items():
        places = [
            (number, agent)
            for number, episode in enumerate(episodes)
            for agent in rows[number]
            if episode.side(agent) == side
        ]
        said = player.answer([rows[number][agent] for number, agent in places])
        for (number, agent), answer in zip(places, said, strict=True):
            answers[number][agent] = answer
        # Only players under attack know these.
        for (number, agent), length in zip(places, getattr(player, "moved", None) or [], strict=False):
            attacked[number][agent] = {"moved": length}
        for (number, agent), read in zip(places, getattr(player, "read", None) or [], strict=False):
            unchanged = rows[number][agent]["prompt"][-1]["content"]
            attacked[number][agent] = {"sees": read} | ({} if read == unchanged else {"unchanged": unchanged})
    for episode, seen, given, changes in zip(episodes, rows, answers, attacked, strict=True):
        episode.step(seen, given, changes)


def malformed_sentences(records: list[EpisodeNumbers]) -> list[str]:
    """Return a sentence for each player of whose answers almost all are malformed: the metrics say nothing about it."""
    sentences = []
    for side in records[0]["sides"]:
        answers, malformed = (
            sum(record["sides"][side][name] for record in records) for name in ("answers", "malformed")
        )
        if malformed > _ALMOST_ALL * max(answers, 1):
            sentences.append(
                f"Almost all answers of the {side} ({100 * malformed / answers:.1f}%) are malformed, and a malformed answer "
                f"counts as no action: the numbers below say nothing about the {side}."
            )
    return sentences


def simulation_table(records: list[EpisodeNumbers]) -> Table:
    """
    Return a table of means over episodes with Student's 95 % confidence intervals: the metrics of the world, and the
    percentages of each player's answers that equal the expert's or are malformed.
    """
    values: dict[str, list[float]] = {}
    for record in records:
        numbers = dict(record["metrics"])
        for side, counts in record["sides"].items():
            for name, label in (("expert", "equal to the expert's"), ("malformed", "malformed")):
                numbers[f"{side}: answers {label}, %"] = 100 * counts[name] / max(counts["answers"], 1)
        for name, number in numbers.items():
            values.setdefault(name, []).append(number)
    table = plain_table(gap=0)
    table.add_column("")
    table.add_column("  mean", justify="right")
    table.add_column("  95 % interval", justify="right")
    for name, numbers in values.items():
        mean, half = mean_interval(numbers)
        table.add_row(name, f"  {mean:.3f}", "-" if half is None else f"  {mean - half:.3f} to {mean + half:.3f}")
    return table
