"""Which world a command is about, and what it says where agents and world do not match."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from aajr_hf.cli.arguments.worlds import world_for
from aajr_hf.cli.common.errors import UserError
from aajr_hf.cli.main import main


@pytest.fixture
def agents(tmp_path):
    """A base agent of `commons`, a run that was trained in `hide_and_seek`, and a model that is known to be of no world."""
    for name in ("base", "run", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"aajr_environment": "commons"}))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"aajr_environment": "commons"}))
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({"environment": "hide_and_seek"}))
    (tmp_path / "other" / "config.json").write_text("{}")
    return {name: str(tmp_path / name) for name in ("base", "run", "other")}


def test_the_world_is_the_one_that_agents_were_made_for(agents):
    assert world_for([agents["base"]], None) == "commons"
    assert world_for([agents["run"], agents["other"]], None) == "hide_and_seek"
    assert world_for([agents["other"], "user/model"], None) == "congestion"
    assert world_for([agents["other"]], "commons") == "commons"


def test_agents_of_another_world_are_refused(agents):
    with pytest.raises(UserError, match="run was trained for the world hide_and_seek, but `--env` is commons"):
        world_for([agents["run"]], "commons")
    with pytest.raises(
        UserError, match="run was trained for the world hide_and_seek, but the world of .*base is commons"
    ):
        world_for([agents["base"], agents["run"]], None)
    with pytest.raises(UserError, match="`--env` must be one of congestion, .*; got 'atlantis'"):
        world_for([], "atlantis")


@pytest.mark.parametrize("world", ["mars", ["commons"], 5])
@pytest.mark.parametrize("key", ["environment", "aajr_environment"])
def test_agents_of_a_world_that_there_is_not_are_refused(key, world, agents, tmp_path):
    name = "recipe.yaml" if key == "environment" else "config.json"
    (tmp_path / "other" / name).write_text(json.dumps({key: world}))
    known = "congestion, commons, hide_and_seek"
    for wanted in (None, "congestion"):
        with pytest.raises(UserError, match=f"other/{name}: `{key}` is {re.escape(repr(world))}.*{known}"):
            world_for([agents["other"]], wanted)


def test_a_recipe_of_another_world_than_its_model_is_refused(agents, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    settings = {"model_name_or_path": agents["base"], "output_dir": str(tmp_path / "out"), "environment": "congestion"}
    recipe.write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(recipe), "--bf16", "false"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`environment` is congestion" in error and "world commons" in error
    assert not (tmp_path / "out").exists()
    assert main(["evaluate", agents["base"], "--env", "atlantis"]) == 2
    assert "got 'atlantis'" in capsys.readouterr().err
