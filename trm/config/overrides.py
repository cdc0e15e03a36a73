"""Overrides of single settings: `--set KEY=VALUE` on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm.config.yaml_files import load_yaml
from trm.utils.errors import ParamsError

OPTION = "--set"


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Convert texts `KEY=VALUE` to full key -> value, which is parsed as YAML. Raises `ParamsError`."""
    overrides = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not all(key.split(".")):
            raise ParamsError(f"{OPTION}: expected KEY=VALUE, such as train.lr=3e-4. Got {text!r}")
        try:
            overrides[key] = load_yaml(value)
        except ValueError as error:
            raise ParamsError(f"{OPTION} {key}: not valid YAML ({error}). Got {value!r}") from None
    return overrides


def check_sections(overrides: Mapping[str, Any], sections: Sequence[str]) -> None:
    """Raise `ParamsError` for a key in another section of the params than `sections`: it would have no effect."""
    from trm.config.params import Params

    for key in overrides:
        section = key.partition(".")[0]
        if section in Params.model_fields and section not in sections:
            raise ParamsError(f"{OPTION} {key}: has no effect on this command, which reads {', '.join(sections)}")


def apply_overrides(values: object, overrides: Mapping[str, Any]) -> object:
    """A copy of `values` (the contents of a params file) with other values at some keys.

    Missing sections are created, so that validation finds the invalid key. Raises `ParamsError` for a key below a value
    without keys.
    """
    for key, value in overrides.items():
        values = _replaced(values, key.split("."), value, key)
    return values


def _replaced(values: object, path: Sequence[str], value: object, key: str) -> object:
    if not path:
        return value
    if values is not None and not isinstance(values, Mapping):
        parent = ".".join(key.split(".")[: -len(path)])
        raise ParamsError(f"{OPTION} {key}: {parent} has no keys, its value is {values!r}")
    inner = {} if values is None else dict(values)
    return inner | {path[0]: _replaced(inner.get(path[0]), path[1:], value, key)}
