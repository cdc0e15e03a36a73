"""Helpers for tests of the command line: the params of a tiny experiment, and the form of error messages."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

Run = Callable[..., tuple[int, str, str]]
"""Runs `trm` with some arguments: (exit code, stdout, stderr)."""
TINY = {
    "size: 6": "size: 4",
    "train_puzzles: 1000": "train_puzzles: 30",
    "test_puzzles: 500": "test_puzzles: 10",
    "allow_leakage: false": "allow_leakage: true",
    r"num_aug: \d+": "num_aug: 2",
    r"validation_groups: \d+": "validation_groups: 5",
    r"hidden_size: \d+": "hidden_size: 16",
    r"num_heads: \d+": "num_heads: 2",
    r"epochs: \d+": "epochs: 4",
    r"global_batch_size: \d+": "global_batch_size: 10",
    "device: auto": "device: cpu",
    "num_examples: 12": "num_examples: 2",
    r"test_time_compute:\n(?:    .*\n)+": "test_time_compute: null\n",  # see tests/reporting
}
"""Regular expression -> replacement: changes of params.yaml for a tiny experiment."""


def tiny_params() -> str:
    """The params file of a tiny experiment."""
    text = (ROOT / "params.yaml").read_text()
    for old, new in TINY.items():
        text, count = re.subn(old, new, text)
        assert count, f"params.yaml should contain {old}"
    return text


def check_error(result: tuple[int, str, str], *words: str) -> None:
    """A user error: exit code 2, no output, and one line on stderr with these words."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    *progress, message = err.splitlines()
    assert message.startswith("trm: "), f"one line: {err}"
    assert all(" done in " in line for line in progress), f"one line: {err}"
    for word in words:
        assert word in err, err


def edit_params(folder: Path, old: str, new: str) -> None:
    """Replace the first match of a regular expression in params.yaml."""
    text = (folder / "params.yaml").read_text()
    changed, count = re.subn(old, new, text, count=1)
    assert count == 1, old
    (folder / "params.yaml").write_text(changed)
