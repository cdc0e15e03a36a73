import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sudokus import digits, grid_classes, load, sudoku
from trm.config.data import AugmentParams
from trm.datasets.fetch import fetch
from trm.datasets.sudoku.dataset import Settings, prepare, source_digest
from trm.utils.errors import DataError, UserError

CSV = "source,question,answer,rating\nmade,{},1234341221434321,3\n"
TRAIN, TEST = CSV.format("1000340001000001").encode(), CSV.format("1...3400.1.....1").encode()


def files(tmp_path: Path, **given: object) -> Settings:
    (tmp_path / "a.csv").write_bytes(TRAIN)
    (tmp_path / "b.csv").write_bytes(TEST)
    return sudoku(4, **{"train": str(tmp_path / "a.csv"), "test": str(tmp_path / "b.csv"), **given})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_path_source_keeps_bytes(tmp_path: Path, out: Path) -> None:
    data = files(tmp_path, train_sha256=digest(TRAIN))
    assert fetch(data, out, "key") == {
        "train_sha256": digest(TRAIN),
        "train_puzzles": 1,
        "test_sha256": digest(TEST),
        "test_puzzles": 1,
    }
    assert (out / "train.csv").read_bytes() == TRAIN
    assert (out / "test.csv").read_bytes() == TEST
    assert source_digest(data) == {"train_sha256": digest(TRAIN), "test_sha256": digest(TEST)}


def test_wrong_sha256_names_key(tmp_path: Path, out: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^data.source.test_sha256: expected {'0' * 64}. .*b.csv has {digest(TEST)}; "
    ):
        fetch(files(tmp_path, test_sha256="0" * 64), out, "key")
    assert not (out / "test.csv").exists()


def test_missing_file_names_key_and_path(tmp_path: Path, out: Path) -> None:
    data = files(tmp_path, train=str(tmp_path / "none.csv"))
    for call in (lambda: fetch(data, out, "key"), lambda: source_digest(data)):
        with pytest.raises(UserError, match=r"^data.source.train: .*none.csv is not a readable file; correct"):
            call()


def test_invalid_csv_names_path_of_user(tmp_path: Path, out: Path) -> None:
    data = files(tmp_path)
    (tmp_path / "b.csv").write_bytes(TEST[:-30])
    with pytest.raises(DataError, match=rf"^{tmp_path}/b.csv, line 2: .*cut off"):
        fetch(data, out, "key")


def test_generate(out: Path, tmp_path: Path) -> None:
    data = sudoku(6, type="generate", train_puzzles=8, test_puzzles=4, clues="minimal", seed=1)
    facts = fetch(data, out, "key")
    train, test = (load(out / f"{split}.csv", 6) for split in ("train", "test"))
    assert (len(train), len(test)) == (facts["train_puzzles"], facts["test_puzzles"]) == (8, 4)
    both = np.concatenate([train.questions, test.questions])
    assert len(set(grid_classes(digits(both)).tolist())) == 12
    assert source_digest(data) == {}
    (tmp_path / "again").mkdir()
    assert fetch(data, tmp_path / "again", "key") == facts


def test_url(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files(tmp_path)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        given: dict[str, Any] = {"train": f"{base}/a.csv", "test": f"{base}/b.csv", "train_sha256": digest(TRAIN)}
        data = sudoku(4, type="url", **given)
        facts = fetch(data, out, "key")
        assert facts["test_sha256"] == digest(TEST)
        assert source_digest(data) == {"train_sha256": digest(TRAIN)}
        (tmp_path / "b.csv").write_bytes(b"<html>not a CSV</html>")
        with pytest.raises(DataError, match=rf"^{base}/b.csv: is an HTML or XML page, not UTF-8 text"):
            fetch(data, out, "key")
        server.shutdown()
        thread.join()


def test_leakage_names_the_lines_of_an_editor(tmp_path: Path) -> None:
    """Sources with line breaks: a row is not on the line that its number suggests."""
    header, blanks, solution = "source,question,answer,rating\n", "." * 12, "1234341221434321"
    train = f'"a\nb",1234{blanks},{solution},0\nc,12.4{blanks},{solution},0\n'
    # The second puzzle is that of line 4 with digit 5 - d for d.
    test = f'"a\r\nb\nc",1...{blanks},{solution},0\nd,43.1{blanks},4321214334121234,0\n'
    (tmp_path / "train.csv").write_text(header + train)
    (tmp_path / "test.csv").write_text(header + test)
    message = r"test.csv, line 5: the puzzle is equivalent to the training puzzle in .*train.csv, line 4; remove"
    with pytest.raises(DataError, match=message):
        prepare(sudoku(4, allow_leakage=False), AugmentParams(num_aug=0, validation_groups=0, seed=0), tmp_path)
