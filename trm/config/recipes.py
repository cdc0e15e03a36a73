"""The recipes: whole params files that ship with the project, and ablations, which are a recipe with changed keys."""

import difflib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trm.utils.errors import UserError


def recipes() -> dict[str, Path]:
    """Name -> whole params file, sorted by name.

    They lie in the package where it was installed, else beside it in the checkout.
    """
    return _named(_folder())


def ablations() -> dict[str, Path]:
    """Name -> file that names a `base` recipe and its `changes`, sorted by name."""
    return _named(_folder() / "ablations")


def studies() -> dict[str, Path]:
    """Name -> file of a study (`trm.study.Study`), sorted by name."""
    return _named(_folder() / "studies")


def _folder() -> Path:
    package = Path(__file__).parent
    return next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())


def _named(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, known: Mapping[str, Path], what: str) -> Path:
    """The file of that name. Raises `UserError` where there is none."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise UserError(f"{what} {name} does not exist; {hint}")
    return known[name]


def recipe_text(name: str) -> str:
    """The recipe as a whole params file. Raises `UserError` for a name that is not there."""
    whole, known = recipes(), recipes() | ablations()
    find(name, known, "recipe")
    if name in whole:
        return whole[name].read_text(encoding="utf-8")
    base, changes = read_ablation(name)
    comment = [*_opening_comment(known[name]), "", f"Command:  trm recipe use {name}, then `dvc repro`"]
    comment += [f"Made of:  {base} with", *(f"          {key}: {value}" for key, value in _shown(changes).items())]
    _, settings = re.split(r"^(?=data:)", whole[base].read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)
    return "".join(f"# {line}".rstrip() + "\n" for line in comment) + "\n" + changed(settings, changes)


def read_ablation(name: str) -> tuple[str, dict[str, Any]]:
    """The base recipe of an ablation, and its changes: full key -> value. Raises `UserError` where there is none."""
    from ruamel.yaml import YAML

    file = find(name, ablations(), "ablation")
    values = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    return values["base"], values["changes"]


def changed(text: str, changes: Mapping[str, Any]) -> str:
    """The text of a params file with other values at some of its keys (`model.lma.mode`); comments and order stay.

    Raises `UserError` for a key that the file has not.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        pass

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()  # keeps comments; like the safe one it constructs plain values alone
    yaml.Representer, yaml.width, yaml.preserve_quotes = Representer, 4096, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    values = yaml.load(text)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or last not in section:
            raise UserError(f"{key} is not a key of the params that it should change; correct its name")
        section[last] = value  # pyright: ignore[reportIndexIssue] - what was loaded can be written to
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _shown(changes: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in changes.items()}


def _opening_comment(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def summary(path: Path) -> str:
    """The first line of the opening comment of a recipe or a study."""
    return next(iter(_opening_comment(path)), path.stem)


def use_recipe(name: str, params: Path, force: bool) -> None:
    """Write the recipe to `params`, whose sections `tracking` and `cluster` stay as they are.

    A file there that is no recipe's text is overwritten only by `force`; else `UserError`.
    """
    text, kept = recipe_text(name), ""
    if params.exists():
        own, kept = without_surroundings(params.read_text(encoding="utf-8"))
        if not force and not any(own == recipe_text(known) for known in recipes() | ablations()):
            raise UserError(f"{params}: has changes of your own; save it elsewhere, or overwrite it with --force")
    params.write_text(text + kept, encoding="utf-8")


def without_surroundings(text: str) -> tuple[str, str]:
    """A params file without the sections on which no result depends, and those with the comments and empty lines in
    front of them.
    """
    section = re.compile(r"^\n?(#[^\n]*\n)*(?:tracking|cluster):.*?(?=^\S|^\n#|\Z)", re.MULTILINE | re.DOTALL)
    return section.sub("", text), "".join(found[0] for found in section.finditer(text))
