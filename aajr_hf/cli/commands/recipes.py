"""`aajr recipes`: list, show or copy the recipes that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..arguments.options import ArgumentParser
from ..arguments.recipes import FOLDER, first_sentence, recipe_file, recipe_names
from ..common.errors import UserError

DESCRIPTION = """List the recipes that come with the package, show one, or copy all of them. `aajr train --config` takes their names.

    aajr recipes
    aajr recipes congestion/aajr
    aajr train --config congestion/aajr --model_name_or_path outputs/agent
    aajr recipes --copy my-recipes
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("recipes", description=DESCRIPTION)
    parser.add_argument("name", nargs="?", help="recipe to show")
    parser.add_argument(
        "--copy", type=Path, metavar="FOLDER", help="copy all recipes to this folder, which must not exist"
    )
    arguments = parser.parse_args(argv)
    if arguments.copy is not None:
        if arguments.name is not None:
            raise UserError("`--copy` copies all recipes: leave out the name.")
        if arguments.copy.exists():
            raise UserError(f"`--copy`: {arguments.copy} exists: give a new folder.")
        shutil.copytree(FOLDER, arguments.copy, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
        print(f"{len(recipe_names())} recipes copied to {arguments.copy}")
    elif arguments.name is not None:
        print(recipe_file(arguments.name).read_text(encoding="utf-8"), end="")
    else:
        for name in recipe_names():
            print(f"{name}\n    {first_sentence(FOLDER / f'{name}.yaml')}")
    return 0
