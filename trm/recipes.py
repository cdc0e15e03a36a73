"""The recipes: whole params files that ship with the project."""

import difflib
import re
from pathlib import Path

from trm.errors import UserError


def recipes() -> dict[str, Path]:
    """Name -> file, sorted by name. They lie in the package where it was installed, else beside it in the checkout."""
    package = Path(__file__).parent
    folder = next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_text(name: str) -> str:
    """The recipe's text. Raises `UserError` for a name that is not there."""
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise UserError(f"recipe {name} does not exist; {hint}")
    return known[name].read_text(encoding="utf-8")


def summary(path: Path) -> str:
    """The first line of a recipe's opening comment."""
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def use_recipe(name: str, params: Path, force: bool) -> None:
    """Write the recipe to `params`, whose section `cluster` stays as it is.

    A file there that is no recipe's text is overwritten only by `force`; else `UserError`.
    """
    text, cluster = recipe_text(name), ""
    if params.exists():
        own, cluster = without_cluster(params.read_text(encoding="utf-8"))
        if not force and own not in {path.read_text(encoding="utf-8") for path in recipes().values()}:
            raise UserError(f"{params}: has changes of your own; save it elsewhere, or overwrite it with --force")
    params.write_text(text + cluster, encoding="utf-8")


def without_cluster(text: str) -> tuple[str, str]:
    """A params file without its section `cluster`, and that section with the comment and empty line in front of it."""
    section = re.search(r"^\n?(#[^\n]*\n)*cluster:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return (text[: section.start()] + text[section.end() :], section[0]) if section else (text, "")
