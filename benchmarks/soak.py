"""Memory, open files and threads of a long training.

    python -m benchmarks.soak --minutes 30

Trains a small model with frequent states, validations and log lines, and reads the process's figures every ten seconds.
Prints:

- memory_start_bytes, memory_end_bytes: median resident memory in the minute after the first `--settle` minutes, and in
  the last minute
- memory_growth: their relative difference
- files_gained, threads_gained: open files and threads at the end, less those after `--settle` minutes
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trm.config.recipes import changed, recipe_text

CHANGES = {
    "data.source.train_puzzles": 200,
    "data.source.test_puzzles": 5,
    "data.allow_leakage": True,
    "augment.num_aug": 4,
    "augment.validation_groups": 20,
    "train.epochs": 1_000_000,
    "train.global_batch_size": 16,
    "train.eval_interval": 20,
    "train.log_interval": 5,
    "train.checkpoint_interval": 50,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.compile": False,
}
INTERVAL = 10.0
"""Seconds between two readings."""


def main() -> None:
    """Train, read the figures and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30, help="duration [30]")
    parser.add_argument("--settle", type=float, default=3, help="minutes before the first reading that counts [3]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(changed(recipe_text("sudoku-4x4"), CHANGES), encoding="utf-8")
        environment = os.environ | {"TRM_STATE_DIR": f"{folder}/states", "TRM_CACHE_DIR": f"{folder}/cache"}
        trm = [sys.executable, "-m", "trm"]
        for stage in ("fetch", "augment"):
            subprocess.run([*trm, stage], cwd=folder, env=environment, check=True, capture_output=True)
        process = subprocess.Popen([*trm, "train"], cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        try:
            readings = read(process, 60 * options.minutes)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        (log,) = Path(folder).glob("states/*/train.tsv")
        steps = int(log.read_text(encoding="utf-8").splitlines()[-1].split("\t")[0])
    settled = [reading for reading in readings if reading[0] >= 60 * options.settle]
    (_, first, files, threads), (end, _, files_end, threads_end) = settled[0], settled[-1]
    first = statistics.median(memory for at, memory, *_ in settled if at < 60 * options.settle + 60)
    last = statistics.median(memory for at, memory, *_ in settled if at > end - 60)
    print(
        json.dumps(
            {
                "minutes": options.minutes,
                "steps": steps,
                "states": steps // CHANGES["train.checkpoint_interval"],
                "memory_start_bytes": int(first),
                "memory_end_bytes": int(last),
                "memory_growth": round(last / first - 1, 4),
                "files_gained": files_end - files,
                "threads_gained": threads_end - threads,
            },
            indent=2,
        )
    )


def read(process: subprocess.Popen[bytes], seconds: float) -> list[tuple[float, int, int, int]]:
    """Seconds since the start, resident bytes, open files and threads of a process, until `seconds` have passed."""
    started, readings, folder = time.monotonic(), [], Path(f"/proc/{process.pid}")
    while (now := time.monotonic() - started) < seconds:
        assert process.poll() is None, f"the training ended with exit code {process.returncode}"
        pages = int((folder / "statm").read_text(encoding="utf-8").split()[1])
        counts = (len(list((folder / name).iterdir())) for name in ("fd", "task"))
        readings.append((now, pages * os.sysconf("SC_PAGE_SIZE"), *counts))
        time.sleep(INTERVAL)
    return readings


if __name__ == "__main__":
    main()
