"""`aajr recipes`, recipes by name, and the wheel in which they travel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aajr_hf.cli.arguments.recipes import FOLDER, beside_recipes, first_sentence, recipe_file, recipe_names
from aajr_hf.cli.main import main
from tests.support import ROOT
from tests.support.commands import FAST


def test_every_recipe_is_listed_with_its_first_sentence(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = {str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in (ROOT / "recipes").rglob("*.yaml")}
    assert set(lines[::2]) == files and len(files) > 30
    assert all(line.startswith("    ") and len(line) > 30 and line.endswith(".") for line in lines[1::2])


@pytest.mark.parametrize("given", ["congestion/aajr", "congestion/aajr.yaml", "recipes/congestion/aajr.yaml"])
def test_a_recipe_is_found_by_name_wherever_one_is(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert recipe_file(given) == FOLDER / "congestion" / "aajr.yaml"
    assert main(["recipes", given]) == 0
    assert capsys.readouterr().out == (FOLDER / "congestion" / "aajr.yaml").read_text()
    # A file of one's own goes first.
    Path(given).parent.mkdir(parents=True)
    Path(given).write_text("epsilon: 1\n")
    assert recipe_file(given) == Path(given)


def test_a_file_beside_a_recipe_is_found_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = "recipes/smollm2-135m/tool-calling/chat_template.jinja"
    assert Path(beside_recipes(named)).is_file() and beside_recipes("recipes/gone") == "recipes/gone"
    assert beside_recipes(3) == 3 and beside_recipes("outputs/x") == "outputs/x"


def test_all_recipes_are_copied(tmp_path, capsys):
    assert main(["recipes", "--copy", str(tmp_path / "mine")]) == 0
    copied = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert copied == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}


def test_a_mistake_is_one_line(tmp_path, refused):
    assert "there is no file nobody, and no recipe of this name" in refused("recipes", "nobody")
    assert f"`--copy`: {tmp_path} exists: give a new folder." in refused("recipes", "--copy", tmp_path)
    assert "`--copy` copies all recipes: leave out the name." in refused("recipes", "x", "--copy", "y")


def test_the_first_sentence_may_span_lines(tmp_path):
    (tmp_path / "r.yaml").write_text("# One sentence of\n# two lines. Another.\n\nepsilon: 1\n")
    assert first_sentence(tmp_path / "r.yaml") == "One sentence of two lines."
    assert recipe_names() == sorted(recipe_names())


@pytest.mark.slow
def test_the_wheel_alone_trains_by_the_name_of_a_recipe(agent, tmp_path):
    source, installed = tmp_path / "source", tmp_path / "installed"
    kept = shutil.ignore_patterns(".*", "outputs", "tests", "docs", "*.egg-info", "build", "__pycache__")
    shutil.copytree(ROOT, source, ignore=kept)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, installed, "zip")  # which is what pip does with it
    assert (installed / "aajr_hf" / "py.typed").is_file()  # type checkers read the package's types
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "aajr_hf", "train", "--config", "congestion/aajr", *FAST]
    command += ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["regularizer"] == "aajr" and (tmp_path / "run" / "model.safetensors").is_file()
    where = [sys.executable, "-c", "import aajr_hf; print(aajr_hf.__file__)"]
    assert subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout.startswith(
        str(installed)
    )
