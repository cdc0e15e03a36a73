"""Garbage collection in a real S3 server: exactly what nothing refers to is named and deleted."""

import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.train.backend import logs_uri
from pipeline.operations.garbage import Name, delete_garbage, find_garbage, parse_pin
from pipeline.runs import RunRecord
from tests.seaweed import artifact
from trm.storage import s3
from trm.storage.artifacts import json_bytes
from trm.storage.s3_client import Store
from trm.utils.errors import DataError, InternalError, UserError

pytestmark = pytest.mark.slow
CHAIN = ("fetch", "augment", "train", "evaluate", "report")
INPUTS = {"augment": "raw", "train": "dataset", "evaluate": "model", "report": "evaluation"}
LATER = timedelta(days=30)


def key_of(stage: str, number: int) -> str:
    return f"{CHAIN.index(stage)}{number:063x}"


def put(base: Store, stage: str, number: int, inputs: dict[str, str]) -> None:
    """An artifact with one file, without its upload through a folder, which takes longer."""
    key = key_of(stage, number)
    manifest = {"stage": stage, "key": key, "inputs": inputs, "files": {}, "manifest_sha256": None}
    store = base.at(f"{base.uri}/{stage}/{key}")
    store.put("f" * 64 + "/file", b"content")
    store.put("manifest.json", json_bytes(manifest))


def champion(root: str, version: int, keys: dict[str, str]) -> dict[str, Any]:
    names = ("token", "promoted_at", "commit", "dvc_lock", "run", "image", "wandb")
    value = {"version": version, "previous_version": None, "restored_version": None, "dataset": "six"}
    value |= {**dict.fromkeys(names, ""), "key": keys["evaluate"], "keys": keys, "metrics": {}, "comparison": None}
    Store(f"{root}/champions/six").put(f"history/{version:06}.json", json_bytes(value))
    Store(f"{root}/champions/six").put("champion.json", json_bytes(value))
    return value


def record(stage: str, key: str) -> RunRecord:
    return RunRecord(stage, key, "", 1.0, None, 1, "", "", 0, "", "", "", "", "")


def names(stage: str, numbers: range) -> set[Name]:
    return {(stage, key_of(stage, number)) for number in numbers}


@pytest.fixture
def filled(root: str) -> tuple[str, set[Name], list[RunRecord], list[Name]]:
    """40 chains of 5 artifacts; 6 chains are reachable: root, reachable artifacts, rows of runs.tsv, pins."""
    store = Store(root)
    for number in range(40):
        for place, stage in enumerate(CHAIN):
            inputs = {INPUTS[stage]: key_of(CHAIN[place - 1], number)} if place else {}
            put(store, stage, number, inputs)
    for version, number in ((1, 0), (2, 1)):  # the former champion is kept for a rollback
        champion(root, version, {stage: key_of(stage, number) for stage in CHAIN[:4]})
    records = [record("report", key_of("report", number)) for number in (0, 1, 2, 3)]
    pins = [("report", key_of("report", 4)), ("report", key_of("report", 5))]
    reachable = {name for stage in CHAIN for name in names(stage, range(6))}
    assert len(reachable) == 30
    return root, reachable, records, pins


def find(root: str, records: list[RunRecord], pins: list[Name], state_root: str | None = None) -> Any:
    return find_garbage(root, state_root, records, pins, timedelta(days=7), datetime.now(UTC) + LATER)


def test_exactly_what_nothing_refers_to(filled: tuple[str, set[Name], list[RunRecord], list[Name]]) -> None:
    root, reachable, records, pins = filled
    everything = set(names("fetch", range(40)).union(*(names(stage, range(40)) for stage in CHAIN)))
    assert len(everything) == 200
    garbage = find(root, records, pins)
    assert set(garbage.groups) == everything - reachable
    assert len(garbage.groups) == 170
    assert set(garbage.kept) == reachable
    young = find_garbage(root, None, records, pins, timedelta(days=7))
    assert (len(young.groups), len(young.kept)) == (0, 200)
    # Killed half-way: the rest is garbage again, and the reachable ones stay.
    deleted = list[Name]()

    def stop(name: Name) -> None:
        deleted.append(name)
        if len(deleted) == 85:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delete_garbage(root, garbage, stop)
    stages = [CHAIN.index(stage) for stage, _ in deleted]
    assert stages == sorted(stages, reverse=True)  # results before what they were computed from
    (started, key), *_ = (name for name in garbage.groups if name not in deleted)
    Store(f"{root}/{started}/{key}").delete("manifest.json")  # as if it was killed within an artifact
    again = find(root, records, pins)
    assert set(again.groups) == everything - reachable - set(deleted)
    delete_garbage(root, again)
    assert find(root, records, pins).groups == {}
    for stage, key in reachable:
        assert set(Store(f"{root}/{stage}/{key}").sizes("")) == {"manifest.json", "f" * 64 + "/file"}


def test_what_is_unknown_is_not_deleted(root: str) -> None:
    """A champion or a manifest that cannot be read, and champions that change meanwhile."""
    put(Store(root), "fetch", 0, {})
    put(Store(root), "augment", 0, {"raw": key_of("fetch", 0)})
    keys = {"fetch": key_of("fetch", 0), "evaluate": key_of("evaluate", 0)}
    champion(root, 1, keys)
    garbage = find(root, [], [])
    assert set(garbage.groups) == names("augment", range(1))
    champion(root, 2, {**keys, "augment": key_of("augment", 0)})
    with pytest.raises(InternalError, match="the champions have changed"):
        delete_garbage(root, garbage)
    assert find(root, [], []).groups == {}
    put(Store(root), "augment", 0, {"something": key_of("fetch", 0)})
    with pytest.raises(DataError, match="does not name its inputs; nothing was deleted"):
        find(root, [], [])
    put(Store(root), "augment", 0, {})
    Store(f"{root}/champions/six").put("champion.json", b"{}")
    with pytest.raises(DataError, match="not written by `promote`"):
        find(root, [], [])


def test_states(root: str) -> None:
    """The state of an unfinished training is kept while something refers to its model."""
    states = f"{root}/states"
    finished, wanted, unwanted = (key_of("train", number) for number in range(3))
    put(Store(root), "train", 0, {})
    for key in (finished, wanted, unwanted):
        Store(f"{states}/{key}/{7:012}").put("manifest.json", b"{}")
    garbage = find(root, [record("train", finished)], [("train", wanted)], states)
    assert set(garbage.groups) == {("states", finished), ("states", unwanted)}
    delete_garbage(root, garbage)
    assert list(Store(states).sizes("")) == [f"{wanted}/{7:012}/manifest.json"]
    assert s3.read_manifest(f"{root}/train/{finished}") is not None


def test_logs_of_workers(root: str) -> None:
    """They are kept while something refers to the model, finished or not."""
    finished, wanted, unwanted = (key_of("train", number) for number in range(3))
    put(Store(root), "train", 0, {})
    for key in (finished, wanted, unwanted):
        Store(logs_uri(root, key)).put("worker-0/20261127T120000Z-uid.log", b"line\n")
    garbage = find(root, [record("train", finished)], [("train", wanted)])
    assert {name: group.uri for name, group in garbage.groups.items()} == {
        ("logs", unwanted): f"{root}/logs/{unwanted}"
    }
    delete_garbage(root, garbage)
    assert {name.partition("/")[0] for name in Store(f"{root}/logs").sizes("")} == {finished, wanted}


def test_artifacts_of_the_pipeline(root: str, tmp_path: Path) -> None:
    """Published as the stages publish: a random set of roots keeps exactly its ancestors."""
    rng, parents = random.Random(3), dict[Name, list[Name]]()
    for number in range(12):
        stage = CHAIN[number % 3]
        above = [name for name in parents if name[0] == CHAIN[CHAIN.index(stage) - 1]] if stage != "fetch" else []
        chosen = [rng.choice(above)] if above else []
        key = key_of(stage, number)
        inputs = dict.fromkeys([INPUTS[stage]], chosen[0][1]) if chosen else {}
        facts = {"stage": stage, "key": key, "inputs": inputs}
        s3.publish(artifact(tmp_path / key, {"a.txt": key.encode()}, **facts), f"{root}/{stage}/{key}")
        parents[stage, key] = chosen
    roots = rng.sample(sorted(parents), 3)
    expected, waiting = set[Name](), list(roots)
    while waiting:
        name = waiting.pop()
        expected.add(name)
        waiting += parents[name]
    assert set(find(root, [], roots).kept) == expected


def test_pins() -> None:
    key = "a" * 64
    assert parse_pin(f"train/{key}") == ("train", key)
    assert parse_pin(f"s3://trm/artifacts/evaluate/{key}/") == ("evaluate", key)
    for text in ("train", key, f"other/{key}", f"train/{key[:12]}"):
        with pytest.raises(UserError, match="not an artifact; write it as"):
            parse_pin(text)


def test_command(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import app
    from tests.params import TINY, params_text

    def run(*arguments: str) -> tuple[str, str]:
        app(["gc", *arguments], standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    text = params_text({**TINY, "cluster.artifact_root": root})
    (tmp_path / "params.yaml").write_text(text)
    put(Store(root), "fetch", 0, {})
    put(Store(root), "fetch", 1, {})
    uri = f"{root}/fetch/{key_of('fetch', 0)}"
    pin = ("--pin", f"fetch/{key_of('fetch', 1)}")
    out, err = run(*pin)
    assert out == ""
    assert re.fullmatch(r"would delete 0 with 0 bytes; 2 with \d+ bytes are kept", err.splitlines()[0])
    out, err = run("--dry-run", "--min-age-days", "0", *pin)
    assert uri in out
    assert err.splitlines()[-1] == "next: python -m pipeline gc --delete"
    found = json.loads(run("--json", "--min-age-days", "0", *pin)[0])
    assert [row["uri"] for row in found["garbage"]] == [uri]
    assert s3.read_manifest(uri) is not None
    _, err = run("--delete", "--min-age-days", "0", *pin)
    assert "deleted 1 with" in err
    assert Store(uri).sizes("") == {}
