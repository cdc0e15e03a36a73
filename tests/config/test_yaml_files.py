"""YAML whose author may be anyone."""

import pytest

from trm.config.yaml_files import load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("a: no", {"a": "no"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: " + "[" * 99 + "]" * 99, None),
        ("[" + "1," * 99_990 + "1]", None),
    ],
)
def test_documents(text: str, value: object) -> None:
    loaded = load_yaml(text)
    assert value is None or loaded == value


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "^line 1: "),
        ("0x_", "invalid literal for int"),
        ("1" * 5000, "Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "[" * 101 + "]" * 101, "^nested too deeply$"),
        (BOMB, "^more than 100,000 values$"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x: *nothing", "undefined alias"),
        ("2026-13-45", "month must be in 1..12"),
    ],
)
def test_problems_have_a_few_words(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        load_yaml(text)
    assert len(str(raised.value)) < 250
