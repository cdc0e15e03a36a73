"""How fast an artifact of 1 GB goes to S3 and comes back, beside plain boto3 at its best settings.

    python -m benchmarks.s3

Prints one JSON object. The server is a SeaweedFS of its own on this machine, the folder like a trained model: a file of
600 MB, four of 100 MB, twenty of 0.1 MB. Plain boto3 is `upload_file` and `download_file`, several files at once, with
neither signatures of the data nor checksums nor digests; its settings are the fastest of a small grid, tried first.
Then both take turns, plain boto3 and ours, and the medians are printed. All of it fills 20 GB of the temporary folder.

- upload_mb_per_s, download_mb_per_s: `trm.storage.s3.publish` and `trm.storage.s3.download`, every byte checked.
- plain_upload_mb_per_s, plain_download_mb_per_s: plain boto3; plain_upload, plain_download: with which settings.
- upload_share, download_share: ours divided by plain boto3's of the same turn, in per cent.
"""

import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from boto3.s3.transfer import TransferConfig

from pipeline.local.s3_server import BUCKET, SeaweedFS
from trm.storage import s3
from trm.storage.artifacts import write_manifest
from trm.storage.s3_client import Store

MEGABYTE = 1_000_000
SIZES = [600 * MEGABYTE, *[100 * MEGABYTE] * 4, *[MEGABYTE // 10] * 20]
TURNS = 5


class Settings(NamedTuple):
    """Of plain boto3."""

    files: int
    """At once."""
    threads: int
    """For each of them."""
    part_mb: int


GRID = [Settings(*choice) for choice in itertools.product((1, 4), (3, 10), (16, 32))]


class Plain:
    """boto3 as it is."""

    def __init__(self, server: SeaweedFS, names: list[str]) -> None:
        self.names = names
        self.client = server.client(
            max_pool_connections=40,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": False},
        )

    def upload(self, folder: Path, settings: Settings) -> None:
        """Every file of `folder`."""
        self._each(lambda name, how: self.client.upload_file(str(folder / name), BUCKET, name, Config=how), settings)

    def download(self, folder: Path, settings: Settings) -> None:
        """Every file, into the new `folder`."""
        folder.mkdir()
        self._each(lambda name, how: self.client.download_file(BUCKET, name, str(folder / name), Config=how), settings)

    def _each(self, transfer: Callable[[str, TransferConfig], None], settings: Settings) -> None:
        part = settings.part_mb << 20
        how = TransferConfig(
            multipart_threshold=part, multipart_chunksize=part, max_concurrency=settings.threads, io_chunksize=1 << 20
        )
        with ThreadPoolExecutor(settings.files) as files:
            list(files.map(lambda name: transfer(name, how), self.names))


def main() -> None:
    """Measure, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        server = SeaweedFS(Path(folder) / "server")
        server.start()
        os.environ.update(server.environment())
        try:
            print(json.dumps(_measure(server, Path(folder)), indent=2))
        finally:
            server.stop()


def _measure(server: SeaweedFS, base: Path) -> dict[str, object]:
    source, there = base / "model", base / "there"
    source.mkdir()
    for number, size in enumerate(SIZES):
        (source / f"{number:02}.bin").write_bytes(os.urandom(size))
    write_manifest(source, {"stage": "train", "key": "0" * 64})
    plain, uri = Plain(server, sorted(path.name for path in source.iterdir())), f"s3://{BUCKET}/train/{'0' * 64}"

    def downloaded(download: Callable[[], object]) -> float:
        pace = _pace(download)
        shutil.rmtree(there)
        return pace

    def published() -> float:
        _delete(uri)
        return _pace(lambda: s3.publish(source, uri))

    def plainly_uploaded(settings: Settings) -> float:
        return _pace(lambda: plain.upload(source, settings))

    def plainly_downloaded(settings: Settings) -> float:
        return downloaded(lambda: plain.download(there, settings))

    plainly_uploaded(GRID[-1])  # the first one makes the server's volumes
    up = max(GRID, key=plainly_uploaded)
    paces: dict[str, list[float]] = {name: [] for name in ("plain_upload", "upload", "plain_download", "download")}
    for _ in range(TURNS):
        paces["plain_upload"].append(plainly_uploaded(up))
        paces["upload"].append(published())
    down = max(GRID, key=plainly_downloaded)
    for _ in range(TURNS):
        paces["plain_download"].append(plainly_downloaded(down))
        paces["download"].append(downloaded(lambda: s3.download(uri, there)))
    figures: dict[str, object] = {f"{name}_mb_per_s": round(statistics.median(of)) for name, of in paces.items()}
    for way in ("upload", "download"):
        shares = [ours / theirs for ours, theirs in zip(paces[way], paces[f"plain_{way}"], strict=True)]
        figures[f"{way}_share"] = round(100 * statistics.median(shares))
    return figures | {"plain_upload": up._asdict(), "plain_download": down._asdict()}


def _pace(transfer: Callable[[], object]) -> float:
    os.sync()  # no transfer pays for what an earlier one has left to be written
    started = time.perf_counter()
    transfer()
    return sum(SIZES) / MEGABYTE / (time.perf_counter() - started)


def _delete(uri: str) -> None:
    """What was published, so that it is uploaded again."""
    store = Store(uri)
    for name in store.sizes(""):
        store.delete(name)


if __name__ == "__main__":
    main()
