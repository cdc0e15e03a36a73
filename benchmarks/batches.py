"""Throughput and memory use of training batches of large datasets.

    python -m benchmarks.batches

Prints one JSON object. Each dataset is measured in a separate process with batches of 768 examples: 1,000 generated
Sudokus 9x9 with 1,000 augmentations each, and ARC-AGI-1 (800 tasks) with 1,000 augmentations each, about 6 GB decoded
in a temporary folder. The first opening, which decodes the dataset into a file of rows, is excluded.

- *_batches_examples_per_s: examples per second of wall time from `training_batches` and `collate`.
- *_memory_growth_mb: increase of the peak resident memory by opening the dataset and reading the batches.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.augment import ARC, NUM_AUG, augment, peak_mb, sudoku_raw
from trm.data.batches import collate, training_batches
from trm.data.parquet import read_split
from trm.datasets.arc import dataset as arc

BATCH = 768
BATCHES = 400
"""Number of timed batches."""


def main() -> None:
    """Measure and print the results."""
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
            _generate(name, Path(folder) / "raw", out)
            environment = {**os.environ, "TRM_CACHE_DIR": folder}
            command = [sys.executable, "-m", "benchmarks.batches", "--child", str(out / "train")]
            first, second = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
            del first  # includes decoding
        figures |= {f"{name}_{figure}": value for figure, value in json.loads(second).items()}
    print(json.dumps(figures, indent=2))


def _generate(name: str, raw: Path, out: Path) -> None:
    raw.mkdir()
    if name == "arc":
        arc.fetch(ARC, raw)
        augment(ARC, raw, out, NUM_AUG)
    else:
        augment(sudoku_raw(raw, 1000), raw, out, NUM_AUG)


def _measure(split_folder: Path) -> dict[str, int]:
    before = peak_mb()
    split = read_split(split_folder)
    epochs = 2 + BATCH * BATCHES * split.counts()["puzzles"] // (split.counts()["examples"] * split.counts()["groups"])
    examples, started = 0, time.perf_counter()
    for number, (rows, _, _) in enumerate(training_batches(split, epochs + 1, BATCH, seed=0)):
        examples += len(collate(split, rows)["inputs"])
        if number + 1 == BATCHES:
            break
    seconds = time.perf_counter() - started
    return {"batches_examples_per_s": round(examples / seconds), "memory_growth_mb": round(peak_mb() - before)}


if __name__ == "__main__":
    main()
