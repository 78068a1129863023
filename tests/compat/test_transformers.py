"""Activation checkpointing under the name that the installed Transformers has for it."""

from __future__ import annotations

import warnings

import pytest
import yaml

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig
from aajr_hf._compat.transformers import ALIASES, CHECKPOINTING
from aajr_hf.training.config.recipe import recipe_of

BASE = {"bf16": False, "report_to": "none"}
CONFIGS = [AAJRConfig, AAJRDPOConfig, AAJRGRPOConfig]


def quietly(cls, folder, **settings):
    """A configuration that is made without a warning that Transformers will drop what it says."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        return cls(str(folder), **BASE, **settings)


@pytest.mark.parametrize("cls", CONFIGS)
@pytest.mark.parametrize("name", ["gradient_checkpointing", CHECKPOINTING])
@pytest.mark.parametrize("value", [True, False, None])
def test_both_names_are_taken_and_no_default_warns(tmp_path, cls, name, value):
    config = quietly(cls, tmp_path, **{} if value is None else {name: value})
    expected = True if value is None else value  # TRL's default
    assert getattr(config, CHECKPOINTING) is config.gradient_checkpointing is expected


def test_its_options_go_with_it(tmp_path):
    config = quietly(AAJRConfig, tmp_path, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert getattr(config, f"{CHECKPOINTING}_kwargs") == {"use_reentrant": False}


@pytest.mark.skipif(not ALIASES, reason="this Transformers has one name for it")
def test_the_new_name_wins(tmp_path):
    config = quietly(AAJRConfig, tmp_path, activation_checkpointing=False, gradient_checkpointing=True)
    assert not config.activation_checkpointing and not config.gradient_checkpointing


@pytest.mark.parametrize("value", [True, False])
def test_a_run_s_recipe_says_it_once_and_gives_the_same_run(tmp_path, value):
    recipe = yaml.safe_load(yaml.safe_dump(recipe_of(quietly(AAJRConfig, tmp_path, gradient_checkpointing=value))))
    assert not recipe.keys() & ALIASES.keys()
    again = AAJRConfig(**recipe)
    assert getattr(again, CHECKPOINTING) is value
