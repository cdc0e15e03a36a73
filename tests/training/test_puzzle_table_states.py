"""States of a large puzzle embedding: the whole table now and then, and between them the rows that have changed."""

import os
import random
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START
from trm.data.parquet import Split, read_meta, read_split
from trm.models.act import Batch
from trm.storage.artifacts import MANIFEST, intact_manifest, write_manifest
from trm.training import trainer
from trm.training.checkpoint import read_header, write_tensors
from trm.training.distributed import SINGLE_PROCESS
from trm.training.state_folder import FILE, TABLE, StateFolder
from trm.training.step import new_state, train_step
from trm.training.train_state import CHANGED_ROWS, TrainState, load_state, snapshot
from trm.utils.errors import DataError, Interrupted

ROWS = 20


@pytest.fixture
def params(model_params: ModelParams) -> ModelParams:
    return model_params.model_copy(update={"puzzle_emb_ndim": 8, "puzzle_emb_len": 1})


@pytest.fixture
def states(tmp_path: Path) -> StateFolder:
    (tmp_path / "key").mkdir()
    return StateFolder(tmp_path / "key")


class Run:
    """A training of 4 slots, whose batches are given."""

    def __init__(self, params: ModelParams, settings: TrainParams, meta: DatasetMeta) -> None:
        self.params = params.model_copy(update={"halt_max_steps": 1})  # each step trains the rows of its batch
        self.settings, self.meta = settings, meta.model_copy(update={"num_identifiers": ROWS})
        self.state = self.new_state()

    def new_state(self) -> TrainState:
        return new_state(self.params, self.meta, self.settings, self.batch([0] * 4), torch.float32)

    def batch(self, rows: list[int]) -> Batch:
        tokens = torch.arange(4 * self.meta.seq_len).reshape(4, -1).int() % self.meta.vocab_size
        return {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.tensor(rows).int()}

    def train(self, *batches: list[int]) -> None:
        for rows in batches:
            train_step(self.state, self.state.model, self.batch(rows), START, self.settings, 100)

    def save(self, states: StateFolder) -> Path:
        save = snapshot(self.state, [], SINGLE_PROCESS)
        assert save is not None
        save(states)
        return states.states()[0]

    def restored(self, states: StateFolder) -> TrainState:
        state = self.new_state()
        assert load_state(states, state, [], SINGLE_PROCESS)
        return state

    def is_equal(self, other: TrainState) -> bool:
        mine, others = ({**each.tensors(), "changed": each.changed_rows} for each in (self.state, other))
        return self.state.step == other.step and all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.fixture
def run(params: ModelParams, train_params: TrainParams, meta: DatasetMeta) -> Run:
    return Run(params, train_params, meta)


def changed(state: Path) -> list[int]:
    return load_file(state / FILE)[CHANGED_ROWS].tolist()


def table(state: Path) -> str:
    """Digest of the table of a state."""
    return intact_manifest(state)["files"][TABLE]["sha256"]


def test_a_state_contains_the_rows_changed_since_the_table(run: Run, states: StateFolder) -> None:
    """More than half of the rows: the next state has a new table."""
    run.train([0, 1, 2, 3])
    first = run.save(states)
    assert changed(first) == []
    digest = table(first)
    expected: set[int] = set()
    for rows in ([7, 7, 3, 7], [5, 7, 19, 0], [8, 9, 10, 11], [0, 1, 1, 0]):
        run.train(rows)
        expected |= set(rows)
        state = run.save(states)
        assert changed(state) == sorted(expected)
        assert table(state) == digest
    assert len(expected) == ROWS // 2
    run.train([12, 12, 12, 12])
    state = run.save(states)
    assert changed(state) == []
    assert table(state) != digest
    assert torch.equal(load_file(state / TABLE)["model.puzzle_table"], run.state.model.puzzle_table)


def test_every_state_restores_the_table(run: Run, states: StateFolder) -> None:
    """Random steps; now and then the training goes on from the last state, or the newest state is lost before."""
    rng = random.Random(0)
    for _ in range(60):
        run.train(*([rng.randrange(ROWS) for _ in range(4)] for _ in range(rng.randrange(3))))
        run.save(states)
        restored = run.restored(StateFolder(states.path))
        assert run.is_equal(restored)
        for state in states.states():
            states.verify(state)
        if rng.random() < 0.3:
            states = StateFolder(states.path)
            if rng.random() < 0.5 and len(states.states()) > 1:
                (states.states()[0] / FILE).unlink()
            run.state = run.restored(states)


def inodes(states: StateFolder) -> list[int]:
    return [(state / TABLE).stat().st_ino for state in states.states()]


def test_the_states_share_two_copies_of_the_table(
    run: Run, states: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged copy is reported by name; the state before it has the other one."""
    run.save(states)
    run.train([1, 2, 3, 4])
    run.save(states)
    copies = inodes(states)
    assert len(set(copies)) == 2
    for row in (5, 6):
        run.train([row] * 4)
        run.save(states)
        assert set(inodes(states)) == set(copies)
    older = run.restored(states)
    run.train([7] * 4)
    newest = run.save(states)
    data = bytearray((newest / TABLE).read_bytes())
    data[-3] ^= 4
    with (newest / TABLE).open("r+b") as file:
        file.write(data)
    assert older.step == run.state.step - 1
    run.state = run.restored(StateFolder(states.path))
    assert f"{newest / TABLE}: corrupt, its SHA-256 differs from the manifest; the state before it" in (
        capsys.readouterr().err
    )
    assert run.is_equal(older)


@pytest.mark.parametrize("rows", [[ROWS], [-ROWS - 1], [1, 2]])
def test_rows_that_do_not_fit_to_the_table(run: Run, states: StateFolder, rows: list[int]) -> None:
    run.save(states)
    run.train([3] * 4)
    state = run.save(states)
    tensors = load_file(state / FILE) | {CHANGED_ROWS: torch.tensor(rows)}
    write_tensors(state / FILE, tensors, read_header(state / FILE))
    manifest = intact_manifest(state)
    (state / MANIFEST).unlink()
    write_manifest(state, {name: manifest[name] for name in ("stage", "key", "step")})
    (states.states()[1] / FILE).unlink()
    with pytest.raises(DataError, match=f"{FILE}: its changed rows do not fit to {TABLE}"):
        run.restored(states)


@pytest.mark.parametrize("stops", [{4}, {6, 11, 13, 32}], ids=str)
def test_resumed_training_has_the_same_bytes(
    dataset: Path,
    params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: Iterable[int],
) -> None:
    """A row for each puzzle, and a state after every second step."""
    settings = train_params.model_copy(update={"checkpoint_interval": 2})
    real, calls = trainer.train_step, list[int]()

    def several_rows(folder: Path) -> Split:
        split = read_split(folder)
        return replace(split, identifiers=np.arange(len(split), dtype=np.int32) % 80)

    def stopped(*args: Any) -> object:  # noqa: ANN401
        calls.append(1)
        if len(calls) in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(trainer, "read_split", several_rows)
    many = read_meta(dataset).model_copy(update={"num_identifiers": 80})
    monkeypatch.setattr(trainer, "read_meta", lambda _: many)
    published = []
    for name in ("whole", "stopped"):
        out = tmp_path / name
        out.mkdir()
        starts = 0
        while not list(out.iterdir()):
            starts += 1
            try:
                trainer.train(params, settings, dataset, out, name)
            except Interrupted:
                continue
        assert starts == (1 if name == "whole" else 1 + len(list(stops)))
        published.append({path.name: path.read_bytes() for path in out.iterdir()})
        monkeypatch.setattr(trainer, "train_step", stopped)
    assert published[0] == published[1]
    assert TABLE not in published[0]
