"""The variables of a distributed run count only in workers of torchrun."""

import pytest

from trm.utils.launch import ignored_variables, local_rank, rank, world_size


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)


def test_worker_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    assert (rank(), world_size(), local_rank()) == (1, 4, 2)
    assert ignored_variables() == []


def test_stray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert (rank(), world_size(), local_rank()) == (0, 1, 0)
    assert ignored_variables() == ["RANK", "WORLD_SIZE"]
    monkeypatch.delenv("RANK")
    assert ignored_variables() == ["WORLD_SIZE"]
