"""The recipes that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import UserError
from ..common.packaged import packaged

FOLDER = packaged("recipes")


def recipe_names() -> list[str]:
    """Return the names of all recipes: their paths in `recipes/`, without `.yaml`."""
    return sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.yaml"))


def recipe_file(given: str) -> Path:
    """
    Return the file of a recipe, given its path, or its name as [`recipe_names`] gives it.

    Raises:
        UserError: if there is neither.
    """
    path = Path(given)
    # The path from a checkout, too, because headers and documentation name recipes so.
    named = FOLDER / path.relative_to("recipes") if path.parts[:1] == ("recipes",) else FOLDER / path
    for file in (path, named, named.with_name(f"{named.name}.yaml")):
        if file.is_file():
            return file
    raise UserError(
        f"`--config`: there is no file {given}, and no recipe of this name: give the path of a recipe, or a name of `aajr recipes`."
    )


def beside_recipes(value: object) -> object:
    """Return a path of a recipe's field such as `recipes/x/chat_template.jinja`, also where there is no checkout."""
    if isinstance(value, str) and value.startswith("recipes/") and not Path(value).exists():
        packaged = FOLDER / Path(value).relative_to("recipes")
        return str(packaged) if packaged.exists() else value
    return value


def first_sentence(file: Path) -> str:
    """Return the first sentence of a recipe's header."""
    header = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        header.append(line[2:])
    said = " ".join(header).partition(". ")[0].rstrip(".")
    return f"{said}."
