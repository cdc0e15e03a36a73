"""Time that the training loop stops for its states.

    python -m benchmarks.checkpoints --case sudoku-mlp --interval 20
    python -m benchmarks.checkpoints --case arc-att --rows 200000 --changed 5000 --interval 8 --states 12

Trains random tokens with and without states, in turns of `--interval` steps. A state is copied in the training loop and
written by a thread, with its digest, to a temporary folder. Prints, as medians over the states, and where named for all
of them in order:

- stop_seconds: the loop stops, for the copies and until the state before the last one is written
- stop_share: of the time between two states
- write_seconds: the thread writes
- written_bytes: bytes written for each state; state_bytes: of all its files, also those it shares with an earlier state
- slowdown: the time of the steps while a state is written, relative to that without states
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.train_step import CASES, Timed, peak_memory, seconds_of
from trm.stages.params import load_recipe
from trm.training.background import BackgroundWriter
from trm.training.distributed import SINGLE_PROCESS
from trm.training.state_folder import StateFolder
from trm.training.train_state import snapshot
from trm.utils.process_settings import keep_memory


def main() -> None:
    """Measure and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES, default="default")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["auto", "cpu", "mps", "cuda"], default="auto")
    parser.add_argument("--rows", type=int, default=100, help="rows of the puzzle embedding (default: 100)")
    parser.add_argument(
        "--changed", type=int, default=0, help="further rows that change before each state (default: 0)"
    )
    parser.add_argument("--batch", type=int, help="batch size (default: that of the case)")
    parser.add_argument("--interval", type=int, default=50, help="steps between two states (default: 50)")
    parser.add_argument("--states", type=int, default=3, help="states (default: 3)")
    options = parser.parse_args()
    keep_memory()
    settings = load_recipe("sudoku-6x6").train
    settings = settings.model_copy(update={"precision": options.precision, "device": options.device})
    with patch("benchmarks.train_step.IDENTIFIERS", options.rows):
        timed = Timed(options.case, CASES[options.case], options.batch, settings, compiled=False)
    for _ in range(3):
        timed.train()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(timed, Path(folder), options.interval, options.states, options.changed), indent=2))


def measure(timed: Timed, folder: Path, interval: int, count: int, changed: int) -> dict[str, Any]:
    """Train `interval` steps without and with a state that is written meanwhile, `count` times.

    changed: random rows of the puzzle embedding that change before each state, as in training with large batches.
    """
    plain, loaded, stops, writes, written = [], [], [], [], []
    states, generator = StateFolder(folder), torch.Generator().manual_seed(0)
    files: set[tuple[int, int]] = set()
    """Inodes and times of the files of earlier states."""

    def write(save_state: Callable[[StateFolder], None]) -> None:
        begun = time.perf_counter()
        save_state(states)
        writes.append(time.perf_counter() - begun)

    def train() -> None:
        for _ in range(interval):
            timed.train()

    with BackgroundWriter() as writer:
        for _ in range(count):
            plain.append(seconds_of(train, timed.device))
            timed.state.changed_rows[torch.randint(len(timed.state.changed_rows), (changed,), generator=generator)] = (
                True
            )
            started = time.perf_counter()
            save_state = snapshot(timed.state, [], SINGLE_PROCESS)
            assert save_state is not None
            writer.submit(partial(write, save_state))
            stops.append(time.perf_counter() - started)
            loaded.append(seconds_of(train, timed.device))
            writer.finish()  # the next turn is without states
            new = [path.stat() for path in states.states()[0].iterdir()]
            written.append(sum(file.st_size for file in new if (file.st_ino, file.st_mtime_ns) not in files))
            files |= {(file.st_ino, file.st_mtime_ns) for file in new}
    size = sum(path.stat().st_size for path in states.states()[0].iterdir())
    stop, without, during = (statistics.median(times) for times in (stops, plain, loaded))
    return {
        "case": timed.name,
        "device": timed.device.type,
        "state_bytes": size,
        "written_bytes": written,
        "interval_seconds": round(during + stop, 3),
        "stop_seconds": round(stop, 4),
        "all_stop_seconds": [round(seconds, 4) for seconds in stops],
        "stop_share": round(stop / (during + stop), 4),
        "write_seconds": round(statistics.median(writes), 3),
        "slowdown": round(during / without - 1, 4),
        "peak_memory_bytes": peak_memory(timed.device),
    }


if __name__ == "__main__":
    main()
