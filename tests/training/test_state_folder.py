"""The folder of the training states: damage is detected, an older state is used, and no crash loses both."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.crash import KINDS
from trm.storage.artifacts import MANIFEST, intact_manifest, write_manifest
from trm.training import checkpoint
from trm.training.state_folder import FILE, StateFolder
from trm.utils.errors import DataError


def content(step: int) -> bytes:
    return f"state of step {step}".encode() * 20


def log(step: int) -> bytes:
    return b"step\n" + b"".join(f"{number}\n".encode() for number in range(step))


def save(states: StateFolder, step: int) -> None:
    states.save(lambda path: path.write_bytes(content(step)), {"train.tsv": log(step)}, step)


def put_checkpoint(states: StateFolder, step: int) -> None:
    states.put_checkpoint(lambda path: path.write_bytes(b"checkpoint %d" % step))


def read(state: Path, manifest: dict[str, Any]) -> int:
    assert (state / FILE).read_bytes() == content(manifest["step"])
    return manifest["step"]


@pytest.fixture
def states(tmp_path: Path) -> StateFolder:
    """States 3 and 4 of the steps 30 and 40, with the best checkpoint of step 20."""
    made = StateFolder(tmp_path / "key")
    made.path.mkdir()
    for step in (10, 20, 30, 40):
        if step == 20:
            put_checkpoint(made, step)
        save(made, step)
    shutil.copyfile(made.path / "state-4/train.tsv", made.path / "train.tsv")
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_times_do_not_decide_which_state_is_newest(states: StateFolder) -> None:
    """The clock may have been wrong when a state was saved."""
    for number, path in enumerate(states.states()):  # newest first
        for file in (path, *path.iterdir()):
            os.utime(file, (1e9 * number, 1e9 * number))
    resumed = StateFolder(states.path)
    assert resumed.load(read) == 40
    save(resumed, 50)
    assert names(states.path) == ["state-4", "state-5", "train.tsv"]


def test_the_last_two_states_are_kept(states: StateFolder) -> None:
    assert names(states.path) == ["state-3", "state-4", "train.tsv"]
    assert names(states.path / "state-4") == [checkpoint.FILE, MANIFEST, FILE, "train.tsv"]
    assert StateFolder(states.path).load(read) == 40
    assert StateFolder(states.path).newest_step() == 40
    assert StateFolder(states.path.parent / "other").load(read) is None


@given(seed=st.integers(min_value=0), kind=st.sampled_from(list(KINDS)))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage(
    states: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, kind: str
) -> None:
    """Each damage of a state is detected; the older state is used if the newer one is damaged."""
    copy = StateFolder(tmp_path / "copy" / states.path.name)
    shutil.rmtree(copy.path, ignore_errors=True)
    shutil.copytree(states.path, copy.path)
    rng = random.Random(seed)
    path = rng.choice(sorted(copy.path.glob("state-*/*")))
    before = path.read_bytes()
    KINDS[kind](path, rng)
    if path.exists() and path.read_bytes() == before:
        return
    with pytest.raises(DataError, match=str(path.parent)):
        copy.verify(path.parent)
    capsys.readouterr()
    is_newest = path.parent.name == "state-4"
    assert copy.load(read) == (30 if is_newest else 40)
    err = capsys.readouterr().err
    assert (f"train: warning: {path.parent}" in err) == is_newest
    assert err.endswith("; the state before it is used\n") == is_newest


def test_every_bit_of_a_manifest_counts(states: StateFolder) -> None:
    path = states.path / "state-4" / MANIFEST
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
            with pytest.raises(DataError, match="corrupt"):
                states.verify(path.parent)
    for damaged in (whole[:-1], whole + b"\n", whole.replace(b"  ", b"\t")):  # JSON with the same values
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="corrupt"):
            states.verify(path.parent)


def test_no_undamaged_state(states: StateFolder) -> None:
    for state in states.states():
        (state / FILE).write_bytes(b"")
    with pytest.raises(DataError) as error:
        StateFolder(states.path).load(read)
    newest, older, remedy = str(error.value).split("; ")
    problem = "corrupt, its SHA-256 differs from the manifest"
    assert (newest, older) == tuple(f"{states.path / name / FILE}: {problem}" for name in ("state-4", "state-3"))
    assert remedy == f"delete {states.path} to start the training again"
    assert StateFolder(states.path).newest_step() == 0


def test_state_of_another_run_is_not_used(states: StateFolder) -> None:
    foreign = states.path.with_name("foreign")
    shutil.copytree(states.path, foreign)
    with pytest.raises(DataError, match="not the manifest of a state of this run"):
        StateFolder(foreign).load(read)


def test_damaged_newer_state_is_replaced(states: StateFolder) -> None:
    (states.path / "state-4" / FILE).unlink()
    resumed = StateFolder(states.path)
    assert resumed.load(read) == 30
    save(resumed, 35)
    assert names(states.path) == ["state-3", "state-5", "train.tsv"]
    assert StateFolder(states.path).load(read) == 35


def test_unchanged_checkpoint_has_two_copies(states: StateFolder) -> None:
    """They are shared by turns and not written again, so that damage of one leaves a state with the other."""
    inodes = []
    for step in (50, 60, 70):
        inodes.append({(path / checkpoint.FILE).stat().st_ino for path in states.states()})
        assert len(inodes[-1]) == 2
        save(states, step)
    assert inodes[0] == inodes[1] == inodes[2]
    newest = states.states()[0]
    with (newest / checkpoint.FILE).open("r+b") as file:
        file.write(b"X")
    resumed = StateFolder(states.path)
    assert resumed.load(read) == 60
    save(resumed, 65)
    out = states.path.parent / "out"
    out.mkdir()
    resumed.publish(out)
    assert (out / checkpoint.FILE).read_bytes() == b"checkpoint 20"
    assert (out / "train.tsv").read_bytes() == log(65)
    assert names(out) == [checkpoint.FILE, "train.tsv"]


@pytest.mark.parametrize("name", [checkpoint.FILE, "train.tsv"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"X" * path.stat().st_size), Path.unlink])
def test_damaged_files_are_not_published(states: StateFolder, name: str, damage: Callable[[Path], object]) -> None:
    damage(states.path / "state-4" / name)
    out = states.path.parent / "out"
    out.mkdir()
    with pytest.raises(DataError, match=f"state-4/{name}: .*; run the same command again, it resumes"):
        states.publish(out)


def test_damaged_checkpoint_is_not_copied_to_the_next_state(states: StateFolder) -> None:
    resumed = StateFolder(states.path)
    resumed.load(read)
    (states.path / "state-4" / checkpoint.FILE).write_bytes(b"X")
    with pytest.raises(DataError, match="state-4/checkpoint.safetensors: corrupt"):
        save(resumed, 50)
    assert StateFolder(states.path).load(read) == 30


def test_damage_of_a_new_checkpoint_is_detected(states: StateFolder) -> None:
    """Its digest is that of the bytes that were written, not of those found when the state is saved."""
    put_checkpoint(states, 45)
    (states.path / checkpoint.FILE).write_bytes(b"checkpoint 46")
    save(states, 50)
    assert StateFolder(states.path).load(read) == 40


def test_file_systems_without_links(states: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError))
    put_checkpoint(states, 45)
    for step in (50, 60, 70):
        save(states, step)
    assert (states.path / "state-7" / checkpoint.FILE).read_bytes() == b"checkpoint 45"
    assert StateFolder(states.path).load(read) == 70


class Crash(BaseException):
    """The process ends here."""


def test_no_moment_without_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends at any operation on files while it saves leaves the state before it or the new one."""
    operations = [(os, "fsync"), (os, "link"), (os, "unlink"), (os, "rmdir"), (Path, "rename"), (Path, "write_bytes")]
    operations += [(Path, "mkdir"), (Path, "unlink")]
    countdown = [10**9]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
            countdown[0] -= 1
            if countdown[0] < 0:
                raise Crash
            return real(*arguments, **options)

        return operation

    for owner, name in operations:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    outcomes = []
    for moment in range(1000):
        states = StateFolder(tmp_path / str(moment) / "key")
        countdown[0] = 10**9
        states.path.mkdir(parents=True)
        for step in (10, 20, 30):
            put_checkpoint(states, step)
            save(states, step)
        countdown[0] = moment
        try:
            put_checkpoint(states, 40)
            save(states, 40)
        except Crash:
            countdown[0] = 10**9
            resumed = StateFolder(states.path)
            outcomes.append(resumed.load(read))
            newest = states.states()[0]
            assert (newest / checkpoint.FILE).read_bytes() == b"checkpoint %d" % outcomes[-1]
            save(resumed, 50)
            assert StateFolder(states.path).load(read) == 50
            assert len(states.states()) == 2
        else:
            break
    assert len(outcomes) > 15
    assert outcomes == sorted(outcomes)
    assert {30, 40} == set(outcomes)


def test_failed_save_leaves_nothing(states: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = names(states.path)
    with pytest.raises(OSError, match="No space"):
        states.save(full, {}, 50)
    assert names(states.path) == before


def test_manifest_with_another_step(states: StateFolder) -> None:
    """Digests prove that nothing has changed, not that a state was written by this version."""
    state = states.path / "state-4"
    manifest = intact_manifest(state)
    del manifest["step"], manifest["files"], manifest["manifest_sha256"]
    (state / MANIFEST).unlink()
    write_manifest(state, manifest)
    assert StateFolder(states.path).load(read) == 30
