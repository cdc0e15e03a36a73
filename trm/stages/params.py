"""Reads `params.yaml`, or the sections of one stage as JSON, with section `data` typed by its dataset.

Overrides (full key -> value) replace single settings and are validated like the file.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import create_model

from trm.config.base import ABSENT_IS_NULL, Section, SectionT, parse, read_yaml
from trm.config.cluster import ClusterParams
from trm.config.overrides import OPTION, apply_overrides
from trm.config.params import Params
from trm.config.recipes import recipe_values
from trm.config.tracking import VARIABLE, TrackingParams
from trm.config.yaml_files import load_yaml
from trm.utils.errors import ParamsError

NO_OVERRIDES: Mapping[str, Any] = {}


def load_params(path: str | Path, overrides: Mapping[str, Any] = NO_OVERRIDES) -> Params:
    """Load and validate a complete `params.yaml`. Raises `ParamsError` with the key, its value and the remedy."""
    values = read_yaml(path, "`trm init` writes params.yaml, --params names another")
    if isinstance(values, Mapping) and values.keys() == {"base", "changes"}:
        remedy = f"write the complete file with `trm recipe use {Path(path).stem} --params FILE`"
        raise ParamsError(f"{path}: is a recipe that changes another one, not a complete params file; {remedy}")
    return check_params(apply_overrides(values, overrides), _where(path, overrides))


def load_cluster(path: str | Path) -> ClusterParams:
    """Load section `cluster` of a params file alone, without the libraries of its dataset. Raises `ParamsError`."""
    values = read_yaml(path, "`trm recipe use sudoku-6x6` writes one")
    section = values.get("cluster") if isinstance(values, Mapping) else None
    return parse(ClusterParams, {} if section is None else section, f"{path}: cluster")


def load_recipe(name: str, changes: Mapping[str, Any] = NO_OVERRIDES) -> Params:
    """Read a recipe with other values at some keys. Raises `UserError` or `ParamsError`."""
    return check_params(recipe_values(name, changes), name)


def parse_params(text: str, where: str) -> Params:
    """Validate the text of a complete params file. Raises `ParamsError`; its message starts with `where`."""
    return check_params(load_yaml(text), where)


def check_params(values: object, where: str) -> Params:
    """Validate the contents of a complete params file. Raises `ParamsError`; its message starts with `where`."""
    return parse(_with_dataset(Params, values, where), values, where)


def load_source(source: str, overrides: Mapping[str, Any] = NO_OVERRIDES) -> str | Params:
    """The params of a file; `source` itself if it is JSON. Raises `ParamsError`.

    Reading a file takes longer than the functions below, which accept its params.
    """
    return source if _is_json(source) else load_params(source, overrides)


def load_sections(
    source: str | Params, names: Sequence[str], overrides: Mapping[str, Any] = NO_OVERRIDES
) -> dict[str, Any]:
    """The named sections of a params file, or of a JSON text with exactly these sections.

    Containers get their params as JSON, in which missing keys are null. Raises `ParamsError`.
    """
    source = load_source(source, overrides) if isinstance(source, str) else source
    if isinstance(source, Params):
        return {name: getattr(source, name) for name in names}
    try:
        values = json.loads(source)
    except json.JSONDecodeError as error:
        raise ParamsError(f"--params: not valid JSON ({error}); give a file, or one JSON object of sections") from None
    own = {key: value for key, value in overrides.items() if not _is_tracking(key)}
    values, where = apply_overrides(values, own), _where("--params", own)
    fields: dict[str, Any] = {name: (Params.model_fields[name].annotation, ...) for name in names}
    sections = create_model("Sections", __base__=Section, **fields)
    return dict(parse(_with_dataset(sections, values, where), values, where, ABSENT_IS_NULL))


def load_tracking(source: str | Params, overrides: Mapping[str, Any] = NO_OVERRIDES) -> TrackingParams:
    """Section `tracking`: the JSON in `$TRM_TRACKING` if it is set, else that of the params file.

    Params as JSON have no such section: tracking is disabled. Raises `ParamsError`.
    """
    values, where = {}, "--params"
    if text := os.environ.get(VARIABLE):
        where = f"${VARIABLE}"
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ParamsError(f"{where}: not valid JSON ({error})") from None
    else:
        source = load_source(source, overrides) if isinstance(source, str) else source
        if isinstance(source, Params):
            return source.tracking
    tracking = parse(TrackingParams, values, where)
    own = {key: value for key, value in overrides.items() if _is_tracking(key)}
    if not own:
        return tracking
    section = create_model("Sections", __base__=Section, tracking=(TrackingParams, ...))
    return dict(parse(section, apply_overrides({"tracking": values}, own), _where(where, own)))["tracking"]


def _is_tracking(key: str) -> bool:
    return key.partition(".")[0] == "tracking"


def _is_json(source: str) -> bool:
    return source.lstrip().startswith("{")


def _where(source: str | Path, overrides: Mapping[str, Any]) -> str:
    """The start of an error message."""
    return f"{source} with {OPTION}" if overrides else str(source)


def _with_dataset(cls: type[SectionT], values: object, where: str) -> type[SectionT]:
    """`cls` with the settings of the dataset in `values`, if they have a section `data`."""
    data = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, Mapping) or "name" not in data or "data" not in cls.model_fields:
        return cls
    from trm.datasets.registry import dataset_module  # imports numpy

    try:
        settings = dataset_module(data["name"]).Settings
    except ParamsError as error:
        raise ParamsError(f"{where}: {error}") from None
    return _with_settings(cls, settings)


@functools.cache
def _with_settings(cls: type[SectionT], settings: type[Section]) -> type[SectionT]:
    """`cls` whose `data` is `settings`. Cached: pydantic looks for the docstrings of a new class in every frame."""
    return create_model(cls.__name__, __base__=cls, data=(settings, ...))
