"""YAML from files and options, whose author may be anyone."""

from typing import Any

MAX_VALUES, MAX_DEPTH = 100_000, 100
"""Bounds of a document in which an alias counts as often as it is used."""


def load_yaml(text: str) -> Any:  # noqa: ANN401 - any document
    """Parse YAML 1.2 (1e-4 is a number, `no` is a word) to dicts, lists and scalars.

    Raises `ValueError` with the line and the problem, in a few words.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(where + _short(getattr(error, "problem", None) or error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # the parser converts numbers and dates without a check
        raise ValueError(_short(error)) from None
    _check_size(document)
    return document


def _short(problem: object) -> str:
    return " ".join(str(problem).split())[:200]


def _check_size(document: object) -> None:
    count, waiting = 0, [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(items)
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError("nested too deeply" if depth > MAX_DEPTH else f"more than {MAX_VALUES:,} values")
        waiting += [(item, depth + 1) for item in items]
