"""Which trainer a command line names."""

from __future__ import annotations

import pytest

from aajr_hf.cli.arguments.trainers import CONFIGS, trainer_named
from aajr_hf.cli.common.errors import UserError


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_line_wins_over_the_recipe_and_sft_is_the_default(tmp_path, name):
    recipe = tmp_path / "recipe.yaml"
    of_class = CONFIGS[name].__name__.replace("Config", "Trainer")
    for written in (name, of_class):  # as people write it, and as a run does
        recipe.write_text(f"trainer: {written}\n")
        assert trainer_named(["--config", str(recipe)]) == trainer_named([f"--config={recipe}"]) == name
        assert trainer_named(["--config", str(recipe), "--trainer", "dpo"]) == "dpo"
        assert trainer_named(["--trainer=grpo", "--config", str(recipe)]) == "grpo"
    recipe.write_text("epsilon: 1\n")
    assert trainer_named(["--config", str(recipe)]) == trainer_named([]) == "sft"
    assert trainer_named(["--trainer", "grpo", "--trainer", name]) == name


def test_an_unknown_trainer_is_refused_by_name():
    with pytest.raises(UserError, match="`trainer` must be one of sft, dpo, grpo; got 'ppo'."):
        trainer_named(["--trainer", "ppo"])
