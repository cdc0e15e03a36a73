"""Values in nested JSON, by path."""

from typing import Any


def lookup(value: Any, path: str) -> Any:  # noqa: ANN401 - JSON values
    """Return the value at a path. Keys may contain dots: the longest key that exists counts."""
    if not path or value is None:
        return value
    if isinstance(value, list):
        selector, _, rest = path.removeprefix("[").partition("]")
        name, _, wanted = selector.rpartition("=")
        found = [each for each in value if each[name] == wanted] if name else value[int(wanted) :]
        return lookup(found[0], rest.removeprefix("."))
    parts = path.replace("[", ".[").split(".")
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in value:
            return lookup(value[key], ".".join(parts[length:]).replace(".[", "["))
    raise KeyError(f"{path} in {sorted(value)}")


def contains(value: Any, expected: Any) -> bool:  # noqa: ANN401
    """Return True if `value` is `expected`, or a mapping with at least its entries."""
    if isinstance(expected, dict) and isinstance(value, dict):
        return all(key in value and contains(value[key], each) for key, each in expected.items())
    return value == expected
