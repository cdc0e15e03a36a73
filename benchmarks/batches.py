"""How fast training batches are made of a large data set, and how much memory that takes.

    python -m benchmarks.batches

Prints one JSON object. Each data set is measured in a process of its own, for batches of 768: Sudoku is 1,000 generated
9x9 puzzles in 1,001 versions, ARC the whole of ARC-AGI-1 (800 tasks) in 1,001 versions, some 6 GB decoded in a
temporary folder. The first opening, which decodes the data set into a file of rows, is not counted; then:

- *_batches_examples_per_s: examples a second of wall time, as `training_batches` and `collate` give them to training.
- *_memory_growth_mb: how far opening the data set and making the batches raised the peak resident memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.augment import ARC, VERSIONS, augment, peak_mb, sudoku_raw
from trm.data.batches import collate, training_batches
from trm.datasets.arc import dataset as arc
from trm.data.parquet import read_split

BATCH = 768
BATCHES = 400
"""Batches that are timed."""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--child", metavar="SPLIT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measure(Path(options.child))))
        return
    figures: dict[str, int] = {}
    for name in ("sudoku", "arc"):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "dataset"
            _make(name, Path(folder) / "raw", out)
            environment = {**os.environ, "TRM_CACHE_DIR": folder}
            command = [sys.executable, "-m", "benchmarks.batches", "--child", str(out / "train")]
            first, second = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
            del first  # it decoded
        figures |= {f"{name}_{figure}": value for figure, value in json.loads(second).items()}
    print(json.dumps(figures, indent=2))


def _make(name: str, raw: Path, out: Path) -> None:
    raw.mkdir()
    if name == "arc":
        arc.fetch(ARC, raw)
        augment(ARC, raw, out, VERSIONS)
    else:
        augment(sudoku_raw(raw, 1000), raw, out, VERSIONS)


def _measure(split_folder: Path) -> dict[str, int]:
    before = peak_mb()
    split = read_split(split_folder)
    epochs = 2 + BATCH * BATCHES * split.counts()["puzzles"] // (split.counts()["examples"] * split.counts()["groups"])
    examples, started = 0, time.perf_counter()
    for number, (rows, _) in enumerate(training_batches(split, epochs + 1, BATCH, seed=0)):
        examples += len(collate(split, rows)["inputs"])
        if number + 1 == BATCHES:
            break
    seconds = time.perf_counter() - started
    return {"batches_examples_per_s": round(examples / seconds), "memory_growth_mb": round(peak_mb() - before)}


if __name__ == "__main__":
    main()
