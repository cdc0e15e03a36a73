"""Failures of S3: killed servers, killed processes, concurrent writers; and a DVC remote in the same bucket."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from tests.clones import Clone, make_clone
from tests.conftest import ROOT
from tests.seaweed import artifact, objects, on_event, speak_to
from trm.storage import s3
from trm.storage.artifacts import MANIFEST, verified_manifest
from trm.utils.errors import DataError

pytestmark = pytest.mark.slow
KEY = "0" * 64


def checkpoint(folder: Path, megabytes: int, seed: int) -> Path:
    """One large file, one multipart file and some small files."""
    rng = random.Random(seed)
    large, middle = rng.randbytes(megabytes << 20), rng.randbytes((20 << 20) + 7)
    small = {f"part-{number}.tsv": rng.randbytes(1000 * number) for number in range(4)}
    return artifact(folder, {"checkpoint.safetensors": large, "rows/train.parquet": middle, **small}, seed=seed)


def version(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def expected_objects(folder: Path) -> set[str]:
    """Names of the objects in S3 after `folder` is published, without leftovers."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    return {MANIFEST, *(f"{version(folder)}/{name}" for name in files)}


@pytest.fixture
def on_request(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """Callbacks before each request."""
    hooks: list[Callable[[], None]] = []

    def call(**_: object) -> None:
        for hook in hooks:
            hook()

    on_event(monkeypatch, "before-send.s3", call)
    yield hooks


class Killer:
    """Kills the server some milliseconds after a request is sent, and restarts it."""

    def __init__(self, server: SeaweedFS, rng: random.Random, requests: int) -> None:
        self.server, self.delay = server, rng.uniform(0.0, 0.03)
        self.countdown, self.done_before_the_kill = rng.randrange(1, requests), True
        self.transfer_is_done = False
        self.now = threading.Event()
        self.thread = threading.Thread(target=self._kill)

    def hook(self) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            self.now.set()

    @contextmanager
    def running(self, on_request: list[Callable[[], None]]) -> Iterator[None]:
        on_request[:] = [self.hook]
        self.thread.start()
        yield
        self.transfer_is_done = True
        self.now.set()
        self.thread.join()

    def _kill(self) -> None:
        self.now.wait()
        time.sleep(self.delay)
        self.server.kill()
        self.done_before_the_kill = self.transfer_is_done
        self.server.start()


@pytest.mark.parametrize("way", ["upload", "download"])
def test_server_killed_during_transfer(
    own_seaweed: SeaweedFS,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    on_request: list[Callable[[], None]],
    way: str,
) -> None:
    speak_to(own_seaweed, monkeypatch)
    model, rng = checkpoint(tmp_path / "model", 60, 0), random.Random(way)
    sent: list[None] = []
    on_request[:] = [lambda: sent.append(None)]
    uri = f"s3://{BUCKET}/train/{KEY}"
    s3.publish(model, uri)
    if way == "download":
        sent.clear()
        s3.download(uri, tmp_path / "downloaded")
    hits = 0
    for number in range(30):
        killer = Killer(own_seaweed, rng, len(sent))
        with killer.running(on_request):
            if way == "upload":
                uri = f"s3://{BUCKET}/train-{number}/{KEY}"
                assert s3.publish(model, uri)["seed"] == 0
            else:
                s3.download(uri, tmp_path / "downloaded")
        on_request.clear()
        if way == "upload":
            assert set(objects(own_seaweed, uri)) == expected_objects(model)
            s3.download(uri, tmp_path / "downloaded")
            for name in objects(own_seaweed, uri):
                own_seaweed.client().delete_object(Bucket=BUCKET, Key=f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}")
        verified_manifest(tmp_path / "downloaded", "train")
        shutil.rmtree(tmp_path / "downloaded")
        hits += not killer.done_before_the_kill
        if hits == 10:
            break
    assert hits == 10, "kills that hit a transfer"


PUBLISH = """
import os, signal, sys
from pathlib import Path
from trm.storage import s3, s3_client
from trm.utils.errors import Interrupted

def interrupted(number, frame):
    raise Interrupted(number)

signal.signal(signal.SIGTERM, interrupted)
s3_client.READ_TIMEOUT = 3600.0
make = s3_client.create_client

def tell(request, **_):
    os.write(1, f"{request.method} {request.url}\\n".encode())  # complete lines from every thread

def client():
    made = make()
    made.meta.events.register("before-send.s3", tell)
    return made
s3_client.create_client = client
print("ready", flush=True)
try:
    for line in sys.stdin:
        folder, uri = line.split()
        print("published", s3.publish(Path(folder), uri)["seed"], flush=True)
except Interrupted as error:
    sys.exit(128 + error.signal)
"""


class Writer:
    """A process that publishes given folders and prints its requests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def publish(self, folder: Path, uri: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{folder} {uri}\n")
        self.process.stdin.flush()

    def published(self) -> str:
        while not (line := self.line()).startswith("published"):
            assert line, "the writer died"
        return line

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process; returns its exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        with self.process:
            return self.process.wait(timeout=60)


@pytest.fixture
def start_writer() -> Iterator[Callable[[], Writer]]:
    """Starts writers that do not outlive the test."""
    started: list[Writer] = []

    def start() -> Writer:
        started.append(Writer())
        return started[-1]

    yield start
    for writer in started:
        writer.process.kill()
        with writer.process:
            pass


def test_uploading_process_killed(
    root: str, seaweed: SeaweedFS, tmp_path: Path, start_writer: Callable[[], Writer]
) -> None:
    model, rng = checkpoint(tmp_path / "model", 30, 0), random.Random(0)
    writer = start_writer()
    writer.publish(model, f"{root}/once/{KEY}")
    requests = 0
    while not writer.line().startswith("published"):
        requests += 1
    assert writer.wait() == 0
    resumed = 0
    for number in range(8):
        uri = f"{root}/{number}/{KEY}"
        writer = start_writer()
        writer.publish(model, uri)
        for _ in range(rng.randrange(requests // 2, requests)):
            writer.line()
        assert writer.end(signal.SIGKILL) == -signal.SIGKILL
        before = objects(seaweed, uri)
        with pytest.raises(DataError, match="contains no artifact") if MANIFEST not in before else _nothing():
            s3.download(uri, tmp_path / "downloaded")
        writer = start_writer()
        writer.publish(model, uri)
        names = set()
        while not (line := writer.line()).startswith("published"):
            method, url = line.split()
            if method == "PUT":
                names.add(url.partition(f"/{version(model)}/")[2].partition("?")[0] or MANIFEST)
        assert writer.wait() == 0
        there = {name.removeprefix(f"{version(model)}/") for name in before}
        assert names.isdisjoint(there), "complete objects are uploaded again"
        resumed += bool(names) and bool(there)
        assert set(objects(seaweed, uri)) == expected_objects(model), "an unfinished upload remains"
        s3.download(uri, tmp_path / "downloaded")
        verified_manifest(tmp_path / "downloaded")
    assert resumed, "no kill occurred between two files"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_two_writers_and_a_reader(
    root: str, seaweed: SeaweedFS, tmp_path: Path, start_writer: Callable[[], Writer]
) -> None:
    """Same key, different bytes, in parallel: both writers report the one manifest; a reader gets all files or none."""
    folders = [checkpoint(tmp_path / str(seed), 0, seed) for seed in range(2)]
    writers = [start_writer(), start_writer()]

    def listen(messages: list[str]) -> None:
        messages.extend(writer.published() for writer in writers)

    rng, seen = random.Random(0), {"nothing": 0, "all": 0}
    for number in range(25):
        uri = f"{root}/{number}/{KEY}"
        first = rng.randrange(2)
        writers[first].publish(folders[first], uri)
        time.sleep(rng.choice([0.0, 0.0, rng.uniform(0.0, 0.4)]))
        writers[1 - first].publish(folders[1 - first], uri)
        messages: list[str] = []
        done = threading.Thread(target=listen, args=(messages,))
        done.start()
        while done.is_alive():
            try:
                s3.download(uri, tmp_path / "downloaded")
                verified_manifest(tmp_path / "downloaded")
                seen["all"] += 1
            except DataError as error:
                assert "contains no artifact" in str(error)
                seen["nothing"] += 1
        done.join()
        published = s3.read_manifest(uri)
        assert published is not None
        assert messages == [f"published {published['seed']}"] * 2
        assert set(objects(seaweed, uri)) == expected_objects(folders[published["seed"]])
    assert min(seen.values()) > 0, seen
    assert [writer.wait() for writer in writers] == [0, 0]


@pytest.mark.parametrize("hangs", [False, True])
def test_sigterm_ends_an_upload(
    own_seaweed: SeaweedFS,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start_writer: Callable[[], Writer],
    hangs: bool,
) -> None:
    """Its parts are deleted, and a server that does not respond (timeout: one hour) does not delay the exit."""
    speak_to(own_seaweed, monkeypatch)
    model, uri = checkpoint(tmp_path / "model", 100, 0), f"s3://{BUCKET}/train/{KEY}"
    writer = start_writer()
    writer.publish(model, uri)
    while "partNumber=3" not in writer.line():
        pass
    pid = own_seaweed.pid()
    assert pid
    if hangs:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)
    code = writer.end(signal.SIGTERM)
    if hangs:
        os.kill(pid, signal.SIGCONT)
    assert code == 128 + signal.SIGTERM
    found = objects(own_seaweed, uri)
    assert MANIFEST not in found
    if not hangs:
        assert not [name for name, size in found.items() if size < 0], "unfinished uploads remain"
    s3.publish(model, uri)
    assert set(objects(own_seaweed, uri)) == expected_objects(model)


def test_dvc_remote_in_the_same_bucket(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    speak_to(seaweed, monkeypatch)
    clone = make_clone(tmp_path)
    clone.run(f"dvc remote add -d store s3://{BUCKET}/dvc")
    assert clone.ran("dvc repro") == ["fetch", "augment", "train", "evaluate", "report"]
    clone.run("git add -A && git commit -qm 'first result' && dvc push")
    fresh = Clone(tmp_path / "fresh", tmp_path / "other-states")
    clone.run(f"git clone -q . {fresh.folder}")
    fresh.run("dvc pull")
    assert fresh.ran("dvc repro") == []
    assert fresh.run("dvc status").strip() == "Data and pipelines are up to date."
    metrics = "outputs/evaluation/metrics.json"
    assert (fresh.folder / metrics).read_bytes() == (clone.folder / metrics).read_bytes()
    # The other clone changes a setting and compares its result with the one that it received.
    fresh.run("cp -rL outputs baseline")
    fresh.run(r"sed -i 's/^  epochs: .*/  epochs: 2/' params.yaml")
    assert fresh.ran("dvc repro") == ["train", "evaluate", "report"]
    assert "train.epochs" in fresh.run("dvc params diff")
    assert "exact_accuracy" in fresh.run("dvc metrics diff --all")
    compared = fresh.start("trm compare outputs baseline")
    assert compared.returncode in (0, 3, 4), compared.stderr
    assert re.search(r"train\.epochs +2 -> \d+", compared.stdout)
    # A lost object is named, and nothing is taken for complete.
    model = json.loads((clone.folder / "outputs/model/manifest.json").read_text())["files"]["checkpoint.safetensors"]
    lost = [name for name, size in objects(seaweed, f"s3://{BUCKET}/dvc").items() if size == model["bytes"]]
    assert lost
    for name in lost:
        seaweed.client().delete_object(Bucket=BUCKET, Key=f"dvc/{name}")
    late = Clone(tmp_path / "late", tmp_path / "late-states")
    clone.run(f"git clone -q . {late.folder}")
    pulled = late.start("dvc pull")
    assert pulled.returncode != 0
    assert any(name.removeprefix("files/md5/").replace("/", "") in pulled.stderr for name in lost)
    assert "train" in late.ran("dvc repro")
    secret = seaweed.environment()["AWS_SECRET_ACCESS_KEY"]
    assert secret not in clone.run("cat .dvc/config dvc.lock; git log -p")
