"""The reward of answers in a world."""

from __future__ import annotations

from typing import Any


def negative_cost(
    completions: list[Any], actions: list[list[str]], action_costs: list[list[float]], **columns
) -> list[float]:
    """
    Return the reward of each completion: minus the system cost of the action that it is, or minus the highest cost of
    its row if it is none of the row's actions.

    Args:
        completions: Messages, or texts.
        actions, action_costs: Columns of the rows of a world.
    """
    rewards = []
    for completion, known, costs in zip(completions, actions, action_costs, strict=True):
        said = completion if isinstance(completion, str) else completion[0]["content"]
        by_action = dict(zip((action.strip() for action in known), costs, strict=True))
        rewards.append(-float(by_action.get(said.strip(), max(costs))))
    return rewards
