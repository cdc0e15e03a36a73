"""Throughput of uploads to S3 and downloads of a 1 GB artifact, compared with plain boto3.

    python -m benchmarks.s3

Prints one JSON object. The server is a local SeaweedFS. The artifact resembles a trained model: one file of 600 MB,
four of 100 MB and twenty of 0.1 MB. Plain boto3 calls `upload_file` and `download_file` on several files in parallel,
without payload signatures, checksums or digests; its settings are the fastest ones of a small grid. Plain boto3 and
`trm.storage` alternate; the results are medians. The benchmark needs 20 GB in the temporary folder.

- upload_mb_per_s, download_mb_per_s: `trm.storage.s3.publish` and `trm.storage.s3.download`, with all checks.
- plain_upload_mb_per_s, plain_download_mb_per_s: plain boto3.
- plain_upload, plain_download: settings of plain boto3.
- upload_share, download_share: throughput of `trm.storage` in percent of plain boto3's in the same round.
"""

import argparse
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
ROUNDS = 5


class Settings(NamedTuple):
    """Settings of plain boto3."""

    files: int
    """Files transferred in parallel."""
    threads: int
    """Threads per file."""
    part_mb: int
    """Part size of multipart transfers in MiB."""


GRID = [Settings(*choice) for choice in itertools.product((1, 4), (3, 10), (16, 32))]


class Plain:
    """Transfers with plain boto3."""

    def __init__(self, server: SeaweedFS, names: list[str]) -> None:
        self.names = names
        self.client = server.client(
            max_pool_connections=40,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": False},
        )

    def upload(self, folder: Path, settings: Settings) -> None:
        """Upload all files of `folder`."""
        self._each(lambda name, how: self.client.upload_file(str(folder / name), BUCKET, name, Config=how), settings)

    def download(self, folder: Path, settings: Settings) -> None:
        """Download all files to the new folder `folder`."""
        folder.mkdir()
        self._each(lambda name, how: self.client.download_file(BUCKET, name, str(folder / name), Config=how), settings)

    def _each(self, transfer: Callable[[str, TransferConfig], None], settings: Settings) -> None:
        part = settings.part_mb << 20
        config = TransferConfig(
            multipart_threshold=part, multipart_chunksize=part, max_concurrency=settings.threads, io_chunksize=1 << 20
        )
        with ThreadPoolExecutor(settings.files) as files:
            list(files.map(lambda name: transfer(name, config), self.names))


def main() -> None:
    """Measure and print the results."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = SeaweedFS(Path(folder) / "server")
        server.start()
        os.environ.update(server.environment())
        try:
            print(json.dumps(_measure(server, Path(folder)), indent=2))
        finally:
            server.stop()


def _measure(server: SeaweedFS, base: Path) -> dict[str, object]:
    source, target = base / "model", base / "downloaded"
    source.mkdir()
    for number, size in enumerate(SIZES):
        (source / f"{number:02}.bin").write_bytes(os.urandom(size))
    write_manifest(source, {"stage": "train", "key": "0" * 64})
    plain, uri = Plain(server, sorted(path.name for path in source.iterdir())), f"s3://{BUCKET}/train/{'0' * 64}"

    def download_speed(download: Callable[[], object]) -> float:
        speed = _speed(download)
        shutil.rmtree(target)
        return speed

    def upload() -> float:
        _delete(uri)
        return _speed(lambda: s3.publish(source, uri))

    def plain_upload(settings: Settings) -> float:
        return _speed(lambda: plain.upload(source, settings))

    def plain_download(settings: Settings) -> float:
        return download_speed(lambda: plain.download(target, settings))

    plain_upload(GRID[-1])  # the first upload creates the server's volumes
    up = max(GRID, key=plain_upload)
    speeds: dict[str, list[float]] = {name: [] for name in ("plain_upload", "upload", "plain_download", "download")}
    for _ in range(ROUNDS):
        speeds["plain_upload"].append(plain_upload(up))
        speeds["upload"].append(upload())
    down = max(GRID, key=plain_download)
    for _ in range(ROUNDS):
        speeds["plain_download"].append(plain_download(down))
        speeds["download"].append(download_speed(lambda: s3.download(uri, target)))
    figures: dict[str, object] = {
        f"{name}_mb_per_s": round(statistics.median(values)) for name, values in speeds.items()
    }
    for direction in ("upload", "download"):
        shares = [ours / theirs for ours, theirs in zip(speeds[direction], speeds[f"plain_{direction}"], strict=True)]
        figures[f"{direction}_share"] = round(100 * statistics.median(shares))
    return figures | {"plain_upload": up._asdict(), "plain_download": down._asdict()}


def _speed(transfer: Callable[[], object]) -> float:
    """Throughput of `transfer` in MB/s (10^6 bytes)."""
    os.sync()  # exclude pending writes of earlier transfers
    started = time.perf_counter()
    transfer()
    return sum(SIZES) / MEGABYTE / (time.perf_counter() - started)


def _delete(uri: str) -> None:
    """Delete the published artifact, so that the next upload is complete."""
    store = Store(uri)
    for name in store.sizes(""):
        store.delete(name)


if __name__ == "__main__":
    main()
