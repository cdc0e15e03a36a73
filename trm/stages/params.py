"""Reads `params.yaml`, or the sections of one stage as JSON, with section `data` typed by its dataset."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import create_model

from trm.config.base import ABSENT_IS_NULL, Section, SectionT, parse, read_yaml
from trm.config.params import Params
from trm.config.tracking import VARIABLE, TrackingParams
from trm.datasets.registry import dataset_module
from trm.utils.errors import ParamsError


def load_params(path: str | Path) -> Params:
    """Read and check a whole `params.yaml`. Raises `ParamsError` with the key, its value and the remedy."""
    values = read_yaml(path, "`trm recipe use sudoku-6x6` writes one")
    return check_params(values, str(path))


def check_params(values: object, where: str) -> Params:
    """What a whole params file holds, checked; `where` opens the message of the `ParamsError`."""
    return parse(_with_dataset(Params, values, where), values, where)


def load_sections(source: str, names: Sequence[str]) -> dict[str, Any]:
    """The named sections of a params file; or of a JSON text, which holds these sections and no other.

    A container gets its params as such a text, in which a key that is not given is null. Raises `ParamsError`.
    """
    if not source.lstrip().startswith("{"):
        params = load_params(source)
        return {name: getattr(params, name) for name in names}
    where = "--params"
    try:
        values = json.loads(source)
    except ValueError as error:
        raise ParamsError(f"{where}: not valid JSON ({error}); give a file, or one JSON object of sections") from None
    fields: dict[str, Any] = {name: (Params.model_fields[name].annotation, ...) for name in names}
    sections = create_model("Sections", __base__=Section, **fields)
    return dict(parse(_with_dataset(sections, values, where), values, where, ABSENT_IS_NULL))


def load_tracking(source: str) -> TrackingParams:
    """The section `tracking`: of `$TRM_TRACKING` (JSON) where that is set, else of a params file. Raises
    `ParamsError`.
    """
    if text := os.environ.get(VARIABLE):
        try:
            return parse(TrackingParams, json.loads(text), f"${VARIABLE}")
        except ValueError as error:
            if isinstance(error, ParamsError):
                raise
            raise ParamsError(f"${VARIABLE}: not valid JSON ({error})") from None
    return TrackingParams() if source.lstrip().startswith("{") else load_params(source).tracking


def _with_dataset(cls: type[SectionT], values: object, where: str) -> type[SectionT]:
    """`cls` with the settings of the kind of data that `values` name, if they have a section `data`."""
    data = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, Mapping) or "name" not in data or "data" not in cls.model_fields:
        return cls
    try:
        settings = dataset_module(data["name"]).Settings
    except ParamsError as error:
        raise ParamsError(f"{where}: {error}") from None
    return create_model(cls.__name__, __base__=cls, data=(settings, ...))
