"""`trm verify`: artifacts, training states and whole roots, on the disk and in S3."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from tests.cli.helpers import Run, check_error
from tests.seaweed import objects
from trm.storage import s3
from trm.storage.artifacts import MANIFEST


@pytest.fixture
def outputs(here: Path, finished: Path) -> Path:
    """The outputs and the training state of a tiny experiment, in the current folder."""
    shutil.copytree(finished / "outputs", here / "outputs")
    shutil.copytree(finished / "states", here / "states")
    return here / "outputs"


def states_of(outputs: Path) -> list[Path]:
    return sorted(outputs.parent.glob("states/*/state-*"), reverse=True)


def damaged(result: tuple[int, str, str]) -> list[str]:
    """The lines of damaged files."""
    code, out, err = result
    assert err == ""
    *lines, summary = out.splitlines()
    found = [line.removeprefix("DAMAGED ") for line in lines if line.startswith("DAMAGED ")]
    assert all(line.startswith(("DAMAGED ", "ok ")) for line in lines)
    assert code == (1 if found else 0)
    assert summary.endswith(" damaged")
    return found


def test_undamaged(run: Run, outputs: Path) -> None:
    newest = states_of(outputs)[0].relative_to(outputs.parent)
    for path in ("outputs", "outputs/model", "states", newest.parent, newest, ".", outputs.absolute(), "demo"):
        assert damaged(run("verify", path)) == [], path
    out = run("verify", ".")[1]
    for name in ("outputs/raw", "outputs/dataset", "outputs/model", "outputs/evaluation", "outputs/report", newest):
        assert f"ok      {name}: " in out
    assert out.splitlines()[-1] == f"{5 + len(states_of(outputs))} verified, 0 damaged"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"\0")])
@pytest.mark.parametrize("file", ["dataset/train/examples.parquet", "model/train.tsv", f"evaluation/{MANIFEST}"])
def test_damaged_artifact(run: Run, outputs: Path, file: str, damage: Callable[[Path], object]) -> None:
    if damage is Path.unlink and file.endswith(MANIFEST):
        return  # the folder is no artifact then
    damage(outputs / file)
    (line,) = damaged(run("verify", "outputs"))
    folder = file.partition("/")[0]
    assert line.startswith(f"outputs/{file}: ")
    assert line.endswith(f"; delete outputs/{folder} and run `trm run`")


def test_every_damaged_file_is_named(run: Run, outputs: Path) -> None:
    for name in ("model/train.tsv", "model/checkpoint.safetensors", "raw/train.csv"):
        flip(outputs / name)
    assert [line.partition(":")[0] for line in damaged(run("verify", "outputs"))] == [
        "outputs/model/checkpoint.safetensors",
        "outputs/model/train.tsv",
        "outputs/raw/train.csv",
    ]


def test_artifact_under_another_key(run: Run, outputs: Path) -> None:
    """In a root, the folder of an artifact has the name of its key."""
    key = json.loads((outputs / "model" / MANIFEST).read_text())["key"]
    root = outputs.parent / "root/train"
    shutil.copytree(outputs / "model", root / key)
    assert damaged(run("verify", "root")) == []
    (root / key).rename(root / ("0" * 64))
    assert [line.partition(";")[0] for line in damaged(run("verify", "root"))] == [
        f"root/train/{'0' * 64}/{MANIFEST}: is that of the artifact {key}"
    ]
    (root / ("0" * 64) / MANIFEST).unlink()
    assert [line.partition(";")[0] for line in damaged(run("verify", "root"))] == [
        f"root/train/{'0' * 64}/{MANIFEST}: is missing"
    ]


def test_damaged_states(run: Run, outputs: Path) -> None:
    (state,) = states_of(outputs)
    shutil.copytree(state, state.with_name("state-9"))
    newest, older = (state.relative_to(outputs.parent) for state in states_of(outputs))
    flip(newest / "state.safetensors")
    nothing = "nothing to do, the training resumes from an undamaged state"
    for path in ("states", newest):
        (line,) = damaged(run("verify", path))
        assert line == f"{newest}/state.safetensors: corrupt, its SHA-256 differs from the manifest; {nothing}"
    assert damaged(run("verify", older)) == []
    (older / MANIFEST).unlink()
    lines = damaged(run("verify", "states"))
    assert lines[1] == f"{older}/{MANIFEST}: is missing; delete {newest.parent}, and the training starts again"
    assert len(lines) == 2


def test_damaged_log(run: Run, outputs: Path) -> None:
    log = (states_of(outputs)[0].parent / "train.tsv").relative_to(outputs.parent)
    with log.open("a") as file:
        file.write("a line after the last state\n")
    assert damaged(run("verify", "states")) == []
    log.write_bytes(log.read_bytes() + b"\0")
    (line,) = damaged(run("verify", "states"))
    assert line.startswith(f"{log}: differs from the log in {states_of(outputs)[0].relative_to(outputs.parent)}; ")


def test_nothing_to_verify(run: Run, here: Path) -> None:
    check_error(run("verify", "nowhere"), "nowhere: no such folder; give a folder or s3:// URI")
    check_error(run("verify", "params.yaml"), "params.yaml: not a folder; give a folder or s3:// URI")
    check_error(run("verify", here), f"{here}: contains no artifact and no training state; give")
    check_error(run("verify", "gs://bucket"), "gs://bucket: neither a local path nor an S3 URI")


def test_s3(run: Run, outputs: Path, root: str, seaweed: SeaweedFS) -> None:
    uris = {}
    for name, stage in (("model", "train"), ("report", "report")):
        key = json.loads((outputs / name / MANIFEST).read_text())["key"]
        uris[name] = f"{root}/{stage}/{key}"
        s3.publish(outputs / name, uris[name])
    state = states_of(outputs)[0]
    uris["state"] = f"{root}/states/{state.parent.name}/000000000020"
    s3.publish(state, uris["state"])

    def verify(location: str) -> list[str]:
        code, out, _ = run("verify", location)  # stderr shows the progress
        return damaged((code, out, ""))

    for uri in (root, f"{root}/", *uris.values()):
        assert verify(uri) == []
    assert run("verify", root)[1].splitlines()[-1] == "3 verified, 0 damaged"
    client: Any = seaweed.client()
    for name, file in (("model", "train.tsv"), ("state", "state.safetensors")):
        (found,) = [each for each in objects(seaweed, uris[name]) if each.endswith(f"/{file}")]
        place = {"Bucket": BUCKET, "Key": f"{uris[name].removeprefix(f's3://{BUCKET}/')}/{found}"}
        data = bytearray(client.get_object(**place)["Body"].read())
        data[5] ^= 1
        client.put_object(**place, Body=bytes(data))
        (line,) = verify(uris[name])
        assert line.startswith(f"{uris[name]}: {file} is corrupt: its SHA-256 differs from the manifest; delete ")
    assert len(verify(root)) == 2
    check_error(run("verify", f"{root}/nothing"), f"{root}/nothing: contains no artifact and no training state")
