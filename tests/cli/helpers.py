"""Helpers for tests of the command line: the form of error messages, and edits of the text of params.yaml."""

import re
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
"""Runs `trm` with some arguments: (exit code, stdout, stderr)."""


def check_error(result: tuple[int, str, str], *words: str) -> None:
    """A user error: exit code 2, no output, and one line on stderr with these words."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    *progress, message = err.splitlines()
    assert re.match("trm( [a-z-]+)?: ", message), f"one line: {err}"
    assert all(" done in " in line for line in progress), f"one line: {err}"
    for word in words:
        assert word in err, err


def replace_in_params(folder: Path, old: str, new: str) -> None:
    """Replace the first match of a regular expression in params.yaml."""
    text = (folder / "params.yaml").read_text()
    changed, count = re.subn(old, new, text, count=1)
    assert count == 1, old
    (folder / "params.yaml").write_text(changed)
