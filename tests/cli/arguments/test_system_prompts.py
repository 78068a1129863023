"""Which system prompt a measurement has: the one on the command line, or the one of the agents' recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aajr_hf.cli.arguments.system_prompts import system_prompt_for
from aajr_hf.cli.common.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(name, fields...)`: the folder of a run with this recipe; `run(name)` is a model without one."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.txt").write_text(f"Prompt {name}.\n")

    def make(name: str, **recipe: object) -> str:
        Path(name).mkdir()
        if recipe:
            (Path(name) / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return name

    return make


def test_it_is_that_of_the_recipes_unless_one_is_given(run):
    trained, base = run("trained", environment="commons", system_prompt="one.txt"), run("base")
    assert system_prompt_for([base], None) is None and system_prompt_for([], None) is None
    # A model without a recipe, or one that was trained on a dataset, has no say.
    calls = run("calls", dataset_name="calls.jsonl")
    assert system_prompt_for([base, trained, calls, "user/model"], None) == "Prompt one."
    for models in ([trained], [base]):
        assert system_prompt_for(models, "two.txt") == "Prompt two."
        assert system_prompt_for(models, "") is None


def test_agents_with_different_ones_are_refused(run):
    one = run("a", environment="commons", system_prompt="one.txt")
    two = run("b", environment="commons", system_prompt="two.txt")
    none = run("c", environment="commons")
    for models in ([one, two], [one, none], [none, one]):
        with pytest.raises(UserError, match=" and ".join(models)) as caught:
            system_prompt_for(models, None)
        assert "with `--system_prompt FILE`" in str(caught.value)
        assert system_prompt_for(models, "two.txt") == "Prompt two."
        assert system_prompt_for(models, "") is None
    # The text counts, not the name of its file.
    Path("again.txt").write_text("Prompt one.")
    again = run("d", environment="commons", system_prompt="again.txt")
    assert system_prompt_for([one, again], None) == "Prompt one."


def test_a_recipe_whose_file_is_gone_names_both(run):
    gone = run("a", environment="commons", system_prompt="gone.txt")
    with pytest.raises(UserError, match=r"^a/recipe.yaml: `system_prompt`: gone.txt cannot be read"):
        system_prompt_for([gone], None)
    with pytest.raises(UserError, match=r"^`--system_prompt`: gone.txt cannot be read"):
        system_prompt_for([gone], "gone.txt")
    wrong = run("b", environment="commons", system_prompt=["one.txt"])
    with pytest.raises(UserError, match=r"^b/recipe.yaml: `system_prompt` must be the name of a text file"):
        system_prompt_for([wrong], None)
    Path("b/recipe.yaml").write_text("environment: [")
    with pytest.raises(UserError, match=r"b/recipe.yaml cannot be read"):
        system_prompt_for([wrong], None)
