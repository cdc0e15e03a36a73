"""How the threads of PyTorch wait for each other."""

import os

import pytest

from trm.cli.main import run_app
from trm.utils.threads import SPINS, limit_spinning


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_every_command_line_limits_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def app(**_: object) -> None:
        seen.append(os.environ.get("GOMP_SPINCOUNT"))

    with pytest.raises(SystemExit):
        run_app(app, "trm")
    assert seen == [SPINS]


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == (value if name == "GOMP_SPINCOUNT" else None)
