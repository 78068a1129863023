"""The world `hide_and_seek`: sight and distance on the grid, both sides' experts, speeds, and being found."""

from __future__ import annotations

import numpy as np
import pytest

from aajr_hf.environments import HideAndSeekEnv
from aajr_hf.environments.grid import Grid
from aajr_hf.environments.hide_and_seek import FAR, Move, View


def small_world(at: dict[str, tuple[int, int]], walls=(), **kwargs) -> HideAndSeekEnv:
    """Two hiders against two seekers on a grid of our own."""
    env = HideAndSeekEnv(agents=4, **kwargs)
    env.reset(seed=0)
    env._grid = Grid(11, frozenset(walls))
    env._at |= at
    env._observe()
    return env


def test_a_grid_is_connected_and_its_distances_are_shortest():
    for seed in range(20):
        grid = Grid.sample(np.random.default_rng(seed), 8, 25)
        origin = grid.cells[0]
        distances = grid.distances(origin)
        assert set(distances) == set(grid.cells)
        assert len(Grid.sample(np.random.default_rng(seed), 11, 8).cells) > 100  # not a corner that walls cut off
        for cell, distance in distances.items():
            steps = [distances[n] for move in ("north", "east", "south", "west") if (n := grid.after(cell, move))]
            assert cell == origin or min(steps) == distance - 1


def test_who_is_seen_sees_and_walls_hide():
    for seed in range(10):
        grid = Grid.sample(np.random.default_rng(seed), 7, 12)
        for one in grid.cells:
            for other in grid.cells:
                assert grid.sees(one, other, 4) == grid.sees(other, one, 4)
    grid = Grid(5, frozenset({(2, 2)}))
    assert not grid.sees((0, 2), (4, 2), 9) and not grid.sees((0, 0), (4, 4), 9)
    assert grid.sees((0, 0), (4, 0), 4) and not grid.sees((0, 0), (4, 0), 3)


def test_the_expert_takes_the_lowest_number_and_the_first_of_equals():
    view = View("hide", 5, (7, 0), (4, None, 3, 3, 5), 2)
    assert view.text() == "hide turn 5 at 7 0 stay 4 north wall east 3 south 3 west 5 mate 2"
    assert view.expert() == Move("east", 2) == Move.parse("go east tell 2")
    assert [view.cost(move) for move in ("stay", "north", "east", "south", "west")] == [3, 3, 0, 1, 5]
    assert Move.parse("go up tell 2") is None


def test_a_hider_reads_how_near_a_seeker_would_be_and_a_seeker_how_far_its_target():
    at = {"hider_0": (5, 5), "hider_1": (9, 9), "seeker_0": (5, 2), "seeker_1": (0, 0)}
    env = small_world(at, walls=[(4, 4), (5, 4), (6, 4)])
    # Behind the wall it sees neither seeker: nothing to fear.
    assert env._current["hider_0"].badness == (0, None, 0, 0, 0)
    env = small_world(at)
    # Three moves from seeker_0.
    assert env._current["hider_0"].badness == (FAR - 3, FAR - 2, FAR - 4, FAR - 4, FAR - 4)
    assert env._current["hider_0"].expert().direction == "east"
    env = small_world(at | {"seeker_0": (5, 4)})
    assert env._current["seeker_0"].badness == (1, 2, 2, 0, 2)
    assert env._current["seeker_0"].expert().direction == "south"


def test_whom_a_mate_tells_of_a_seeker_knows_it_a_turn_later():
    at = {"hider_0": (5, 5), "hider_1": (2, 4), "seeker_0": (5, 3), "seeker_1": (5, 3)}
    hidden = [(3, y) for y in range(2, 11)]
    silent = "go stay tell 9"
    for told in (True, False):
        env = small_world(at, walls=hidden)
        assert set(env._current["hider_1"].badness) <= {0, None}
        env.step(dict.fromkeys(env.agents, silent) | ({"hider_0": "go stay tell 1"} if told else {}))
        assert (max(b for b in env._current["hider_1"].badness if b is not None) > 0) is told


@pytest.mark.parametrize(("magnitude", "moves"), [(0, 2), (1, 3), (2, 4), (6, 8)])
def test_seekers_make_so_many_moves_in_four_turns(magnitude, moves):
    at = {"hider_0": (0, 10), "hider_1": (0, 10), "seeker_0": (0, 0), "seeker_1": (10, 0)}
    env = small_world(at, steps=12, shock="faster_seeker" if magnitude else None, magnitude=magnitude)
    env.step_count = 4  # the first third is over
    made = 0
    for _ in range(4):
        env._patrol["seeker_0"] = (10, 0)
        before = env._at["seeker_0"]
        env.step(dict.fromkeys(env.agents, "go stay tell 1") | {"seeker_0": "go east tell 1"})
        made += env._at["seeker_0"][0] - before[0]
    assert made == moves


def test_a_found_hider_is_out():
    at = {"hider_0": (5, 5), "hider_1": (9, 9), "seeker_0": (5, 4), "seeker_1": (0, 0)}
    env = small_world(at)
    _, rewards, terminations, _, _ = env.step(dict.fromkeys(env.agents, "go stay tell 1"))
    assert terminations == {"hider_0": True, "hider_1": False, "seeker_0": False, "seeker_1": False}
    assert rewards["hider_0"] == -1 and rewards["seeker_0"] == 1 and rewards["hider_1"] == 0
    assert "hider_0" not in env.agents
    assert env.metrics()["hidden"] == 0.5 and env.metrics()["win"] == 0
    env.step(dict.fromkeys(env.agents, "go stay tell 1"))
    assert env.metrics()["hidden_turns"] == pytest.approx(1 - 1 / 4)


def test_false_sightings_frighten_hiders_and_leave_seekers_alone():
    env = HideAndSeekEnv(shock="false_sightings", magnitude=3, steps=6)
    env.reset(seed=0)
    for _ in range(2):
        env.step(env.expert_actions())
    true = {env._at[seeker] for seeker in env._seekers}
    assert any(env._sightings[hider] - true for hider in env._hiders if hider in env.agents)
    hiding = {env._at[hider] for hider in env._hiders}
    assert all(env._sightings[seeker] <= hiding for seeker in env._seekers)
