"""The recipes that ship with the project: one complete params file, and recipes that change some of its keys.

A recipe is a comment, then either a complete params file or the keys `base` (the name of another recipe) and `changes`
(full key -> value). Ablations are recipes of the second form, in a folder of their own.
"""

import difflib
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm.config.yaml_files import load_yaml
from trm.utils.errors import UserError
from trm.utils.file_formats import decode_text
from trm.utils.paths import replace_file

if TYPE_CHECKING:
    from ruamel.yaml import YAML

KEPT_SECTIONS = ("tracking", "cluster")
"""Sections that recipes do not have and that `use_recipe` keeps: no result depends on them."""


def recipes() -> dict[str, Path]:
    """Name -> file of each recipe that is not an ablation, sorted by name.

    The files are in the installed package, or beside it in a checkout.
    """
    return _files(_folder())


def ablations() -> dict[str, Path]:
    """Name -> file of each ablation, sorted by name."""
    return _files(_folder() / "ablations")


def studies() -> dict[str, Path]:
    """Name -> file of each study (`trm.studies.study.Study`), sorted by name."""
    return _files(_folder() / "studies")


def _folder() -> Path:
    package = Path(__file__).parents[1]
    return next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, known: Mapping[str, Path], what: str) -> Path:
    """The file with the name `name`. Raises `UserError` if there is none."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"`trm {what} list` lists the names"
        raise UserError(f"{what} {name} does not exist; {hint}")
    return known[name]


@cache
def recipe_text(name: str) -> str:
    """The recipe as a complete params file, with its comment. Raises `UserError` if there is none of that name.

    The comment states that it is about the unchanged recipe: it remains true when the params are changed. Files
    are read once per process.
    """
    text = find(name, recipes() | ablations(), "recipe").read_text(encoding="utf-8")
    base, changes = read_changes(name)
    if base is None:
        return text
    title, *notes = [*_opening_comment(text), ""]
    listed = [f"          {key}: {_flow(value)}" for key, value in changes.items()]
    comment = [_origin(name), title, "", f"Command:  trm recipe use {name}, then `dvc repro` or `trm run`"]
    comment += [line for line in notes if line]
    comment += [f"Base:     {base}, with", *listed]
    return "".join(f"# {line}".rstrip() + "\n" for line in comment) + "\n" + changed(_settings(base), changes)


def recipe_values(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a recipe with other values at some keys (full key -> value), not validated.

    Raises `UserError` for a recipe or a key that does not exist.
    """
    return load_yaml(changed(recipe_text(name), changes))


def read_changes(name: str) -> tuple[str | None, dict[str, Any]]:
    """The base of a recipe and its changes: full key -> value. A complete recipe has the base None and no changes.

    Raises `UserError` if there is no recipe of that name.
    """
    values = _yaml().load(find(name, recipes() | ablations(), "recipe").read_text(encoding="utf-8"))
    return values.get("base"), values.get("changes", {})


def changed(text: str, changes: Mapping[str, Any]) -> str:
    """Change the values at some keys (`model.lma.mode`) of a params file; comments and order stay.

    The comments of `changes`, if it was read from a file, replace those of the changed values. Raises `UserError` for
    a key that the file does not have.
    """
    yaml = _yaml()
    values = yaml.load(text)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or last not in section:
            raise UserError(f"{key} is not a key of the params that it should change; correct its name")
        section[last] = value  # pyright: ignore[reportIndexIssue] - a mapping read from YAML is mutable
        if hasattr(changes, "ca"):
            _copy_comment(changes, key, section, last)
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def changed_by_text(name: str, changes: str) -> str:
    """A recipe as a complete params file without the comment at its top, changed by the YAML text of a mapping of full
    keys to values. The comments of the mapping replace those of the changed values.
    """
    return changed(_settings(name), _yaml().load(changes))


def _copy_comment(source: Any, key: str, target: Any, last: str) -> None:  # noqa: ANN401 - ruamel's nodes
    """Copy the comment at the end of a line; the empty lines after it stay those of the target."""
    new, old = source.ca.items.get(key), target.ca.items.pop(last, None)
    comment = new[2].value.partition("\n")[0] if new and new[2] else ""
    empty_lines = old[2].value.partition("\n")[2] if old and old[2] else ""
    if comment:
        target.yaml_add_eol_comment(comment.lstrip("# "), last)
        target.ca.items[last][2].value += "\n" + empty_lines
    elif empty_lines:
        old[2].value = "\n" + empty_lines
        target.ca.items[last] = old


def _yaml() -> "YAML":
    """A parser that keeps comments; like the safe one it constructs plain values only."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        pass

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer, yaml.width, yaml.preserve_quotes = Representer, 4096, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _flow(value: object) -> str:
    """A value as a comment shows it: mappings without their contents."""
    if isinstance(value, Mapping):
        return "{...}"
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return "[...]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _settings(name: str) -> str:
    """A recipe as a complete params file without the comment at its top."""
    lines = recipe_text(name).splitlines(keepends=True)
    return "".join(lines[next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")) :])


def _opening_comment(text: str) -> list[str]:
    return [line.removeprefix("#").removeprefix(" ").rstrip() for line in text.splitlines() if line.startswith("#")]


def summary(path: Path) -> str:
    """The title of a recipe or a study: the first line of the comment at its top that is not its name."""
    comment = _opening_comment(path.read_text(encoding="utf-8"))
    return next((line for line in comment if line != _origin(path.stem)), path.stem)


def _origin(name: str) -> str:
    """The first line of a params file from a recipe. It remains true when the params are changed."""
    return f"Recipe {name}; scores and times are those of the unchanged recipe."


def use_recipe(name: str, params: Path, force: bool) -> None:
    """Write the recipe to `params`; the sections `tracking` and `cluster` of an existing file are kept.

    Raises `UserError` if the existing file is not the text of a recipe, unless `force` is True.
    """
    write_params(recipe_text(name), params, force)


def write_params(text: str, params: Path, force: bool) -> None:
    """Write a params file; the sections `tracking` and `cluster` of an existing file are kept.

    Raises `UserError` as `kept_sections`.
    """
    replace_file(params, text + kept_sections(params, force))


def kept_sections(params: Path, force: bool) -> str:
    """The text of the sections `tracking` and `cluster` of a params file that will be replaced; empty if it is absent.

    Raises `UserError` if the file is not the text of a recipe, unless `force` is True.
    """
    if not params.exists():
        return ""
    own, kept = split_sections(decode_text(params.read_bytes(), params), KEPT_SECTIONS)
    if not force and not any(own == recipe_text(known) for known in recipes() | ablations()):
        raise UserError(f"{params}: has changes of your own; save it elsewhere, or overwrite it with --force")
    return kept


def split_sections(text: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Split a params file into the text without the sections `names`, and the text of these sections.

    The comments and empty lines before a section belong to it.
    """
    lines = text.splitlines(keepends=True)
    values = _yaml().load(text)
    starts = {}
    for name in values or ():
        start = values.lc.key(name)[0]
        while starts and start and (not lines[start - 1].strip() or lines[start - 1].startswith("#")):
            start -= 1
        starts[name] = start
    ends = [*starts.values(), len(lines)][1:]
    without, sections = "".join(lines[: next(iter(starts.values()), len(lines))]), ""
    for (name, start), end in zip(starts.items(), ends, strict=True):
        part = "".join(lines[start:end])
        without, sections = (without, sections + part) if name in names else (without + part, sections)
    return without, sections
