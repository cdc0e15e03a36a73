"""Download of files from Hugging Face: huggingface_hub against a local server."""

import hashlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.preload import python
from tests.sudokus import NO_FILTERS
from trm.data.sources import HuggingFaceSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW = "made,{},1234341221434321,{}\n"
HEADER = "source,question,answer,rating\n"
FILES = {
    "train.csv": HEADER
    + "".join(ROW.format(f"{'.' * 12}43{'21'[: 1 + k % 2]}{'.' * (1 - k % 2)}", k) for k in range(40)),
    "test.csv": HEADER + ROW.format("1.3.3.1.2.4.4.2.", 7) + ROW.format("1...3...2...4...", 2),
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of https://huggingface.co that huggingface_hub requests for a file of a dataset."""

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(None)

    def answer(self, body: bytes | None) -> None:
        prefix = "/datasets/user/puzzles/resolve/"
        revision, _, name = self.path.removeprefix(prefix).partition("/")
        if not self.path.startswith(prefix):
            self.reject(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.reject(404, "RevisionNotFound")
        elif name not in FILES:
            self.reject(404, "EntryNotFound")
        else:
            content = FILES[name].encode()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if body is None else body)

    def reject(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(folder: Path, endpoint: str, **changes: object) -> subprocess.CompletedProcess[str]:
    """Run `trm fetch` in `folder`, in a subprocess: huggingface_hub reads its endpoint at import."""
    source = {"type": "huggingface", "repo": "user/puzzles", "revision": "main"}
    source |= {"train": "train.csv", "test": "test.csv", **NO_FILTERS, **changes}
    text = (ROOT / "params.yaml").read_text()
    start, end = text.index("data:"), text.index("augment:")
    data = {"name": "sudoku", "size": 4, "allow_leakage": True, "source": source}
    (folder / "params.yaml").write_text(f"{text[:start]}data: {json.dumps(data)}\n\n{text[end:]}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")}
    environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
    command = [python(), "-m", "trm", "fetch"]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def test_files_are_copied_byte_by_byte(tmp_path: Path, hub: str) -> None:
    result = fetch(tmp_path, hub)
    assert result.returncode == 0, result.stderr
    for name, text in FILES.items():
        assert (tmp_path / "outputs/raw" / name).read_text() == text
    digest = hashlib.sha256(FILES["test.csv"].encode()).hexdigest()
    assert fetch(tmp_path, hub, test_sha256=digest, revision=COMMIT).returncode == 0


def test_subsample_and_min_rating(tmp_path: Path, hub: str) -> None:
    result = fetch(tmp_path, hub, subsample=5, min_rating=5)
    assert result.returncode == 0, result.stderr
    train, test = ((tmp_path / "outputs/raw" / name).read_text() for name in FILES)
    kept = train.splitlines(keepends=True)
    assert kept[0] == HEADER
    assert len(kept) == 6
    rows = FILES["train.csv"].splitlines(keepends=True)
    indices = [rows.index(row) for row in kept[1:]]
    assert indices == sorted(indices)
    assert all(int(row.rpartition(",")[2]) >= 5 for row in kept[1:])
    assert test.count("\n") == 2  # one test puzzle is rated 2
    assert fetch(tmp_path, hub, subsample=5, min_rating=5).returncode == 0
    assert (tmp_path / "outputs/raw/train.csv").read_text() == train
    assert fetch(tmp_path, hub, subsample=5, min_rating=5, seed=1).returncode == 0
    assert (tmp_path / "outputs/raw/train.csv").read_text() != train


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repo": "user/missing"}, ("user/missing", "no such dataset", "correct repo")),
        ({"train": "other.csv"}, ("other.csv", "request rejected", "correct repo, revision or file")),
        ({"revision": "v9"}, ("at v9", "request rejected")),
        ({"test_sha256": "0" * 64}, ("data.source.test_sha256: expected 0000",)),
        ({"min_rating": 100}, ("data.source.min_rating", "no puzzle", "lower it")),
    ],
)
def test_errors_have_one_line(tmp_path: Path, hub: str, changes: dict[str, object], words: tuple[str, ...]) -> None:
    result = fetch(tmp_path, hub, **changes)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "outputs").exists()


def test_no_network(tmp_path: Path) -> None:
    result = fetch(tmp_path, "http://127.0.0.1:9")
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Hugging Face cannot be reached" in result.stderr


def test_repository_name_of_recipe() -> None:
    source = {"type": "huggingface", "repo": "sapientinc/sudoku-extreme", "revision": "main", "train": "a", "test": "b"}
    assert HuggingFaceSource.model_validate({**source, **NO_FILTERS}).repo == "sapientinc/sudoku-extreme"
