"""Fixtures for tests of the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.helpers import Run
from tests.params import TINY, params_text
from trm.cli import main as cli
from trm.utils.stop_signals import handled_signals


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A function that runs `trm` in this process: (exit code, stdout, stderr)."""
    signals = {number: cli.signal.getsignal(number) for number in handled_signals()}

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trm", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    yield command
    for number, handler in signals.items():
        cli.signal.signal(number, handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which contains only the params of a tiny experiment."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "params.yaml").write_text(params_text(TINY))
    return folder
