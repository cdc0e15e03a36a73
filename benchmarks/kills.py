"""Trainings that are killed by SIGKILL at random moments: the bytes that they publish, and the time lost.

    python -m benchmarks.kills --kills 60 --start process --start torchrun --start dvc --start s3

A small training, which saves its state every few steps, is started and killed with all its processes until it ends;
then another one begins, until there were `--kills` kills. Ways to start it:

- process: `trm train`
- torchrun: two processes under torchrun
- dvc: `dvc repro --force train` in a clone of this repository
- s3: `trm train` with states in a SeaweedFS, on a new machine after each kill; the server is killed five times

Prints per way:

- kills, trainings: the kills, and the trainings that were completed
- mismatches: trainings whose output differs from that of an uninterrupted one by any byte
- errors: starts that ended by themselves with an error
- lost_seconds: mean over the kills of the time that a kill costs: all starts of the training together, less the
  time of an uninterrupted one. It includes the start of a process.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.local.s3_server import BUCKET, SeaweedFS
from trm.config.recipes import changed, recipe_text

ROOT = Path(__file__).resolve().parents[1]
CHANGES: dict[str, Any] = {
    "data.source.train_puzzles": 40,
    "data.source.test_puzzles": 5,
    "data.allow_leakage": True,
    "augment.num_aug": 2,
    "augment.validation_groups": 8,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "train.epochs": 300,
    "train.global_batch_size": 8,
    "train.eval_interval": 50,
    "train.log_interval": 5,
    "train.checkpoint_interval": 20,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.compile": False,
}
"""A training of 1,200 short steps."""
FILES = ("checkpoint.safetensors", "train.tsv", "validation.tsv")
WAYS = ("process", "torchrun", "dvc", "s3")
SERVER_KILLS = 5
OUTAGE = 1.0
"""Seconds that a killed server is away."""


class Training:
    """A folder in which a training is started in one of the ways."""

    def __init__(self, folder: Path, way: str) -> None:
        self.folder, self.way, self.environment = folder, way, dict(os.environ)
        trm = [sys.executable, "-m", "trm"]
        if way == "dvc":
            subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
            self.command = [sys.executable, "-m", "dvc", "repro", "-s", "-f", "--no-run-cache", "train"]
        else:
            folder.mkdir()
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trm"]
            start = [sys.executable, *torchrun] if way == "torchrun" else trm
            self.command = [*start, "train"]
        self.model = folder / "outputs/model"
        self.environment |= {"PYTHONPATH": str(folder if way == "dvc" else ROOT), "OMP_NUM_THREADS": "1"}
        self.environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.environment["TRM_CACHE_DIR"] = str(folder / "machine")
        self.new_states(0)
        (folder / "params.yaml").write_text(changed(recipe_text("sudoku-4x4"), CHANGES), encoding="utf-8")
        for stage in ("fetch", "augment"):
            self.call([sys.executable, "-m", "dvc", "repro", "-s", stage] if way == "dvc" else [*trm, stage])

    def new_states(self, number: int) -> None:
        """Begin another training: without states of an earlier one."""
        root = f"s3://{BUCKET}/{number}" if self.way == "s3" else str(self.folder / f"states-{number}")
        self.environment["TRM_STATE_DIR"] = root
        shutil.rmtree(self.model, ignore_errors=True)

    def call(self, command: list[str]) -> None:
        """Run a command to its end."""
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)

    def start(self) -> subprocess.Popen[str]:
        """Start the training as a process group of its own."""
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def published(self) -> dict[str, bytes]:
        """The files of the output."""
        return {name: (self.model / name).read_bytes() for name in FILES}

    def run(self) -> float:
        """Train without interruption; returns the time in seconds."""
        started = time.monotonic()
        process = self.start()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return time.monotonic() - started


def measure(training: Training, kills: int, rng: random.Random, server: SeaweedFS | None) -> dict[str, Any]:
    """Kill the training `kills` times and restart it."""
    seconds = training.run()
    expected = training.published()
    counts = {"kills": 0, "trainings": 0, "mismatches": 0, "errors": 0}
    spent = lost = 0.0
    outages = set(rng.sample(range(kills), min(SERVER_KILLS, kills))) if server else set()
    training.new_states(1)
    while counts["kills"] < kills or spent:
        started = time.monotonic()
        process = training.start()
        delay = rng.uniform(0, 0.7 * seconds) if counts["kills"] < kills else None
        if counts["kills"] in outages and server is not None:
            outages.remove(counts["kills"])
            threading.Thread(target=interrupt, args=(server, rng.uniform(0, seconds))).start()
        try:
            _, errors = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            counts["kills"] += 1
            spent += time.monotonic() - started
            if training.way == "s3":  # the next start is on another machine
                shutil.rmtree(training.folder / "machine", ignore_errors=True)
            continue
        spent += time.monotonic() - started
        if process.returncode != 0:
            counts["errors"] += 1
            print(f"{training.way}: exit code {process.returncode}: {errors[-500:]}", file=sys.stderr)
            continue
        counts["trainings"] += 1
        counts["mismatches"] += training.published() != expected
        lost, spent = lost + spent - seconds, 0.0
        training.new_states(counts["trainings"] + 1)
        print(f"{training.way}: {counts}", file=sys.stderr, flush=True)
    return counts | {"uninterrupted_seconds": round(seconds, 1), "lost_seconds": round(lost / max(kills, 1), 2)}


def interrupt(server: SeaweedFS, delay: float) -> None:
    """Kill the server after a while and start it again."""
    time.sleep(delay)
    server.kill()
    time.sleep(OUTAGE)
    server.start()


@contextmanager
def storage(training: Training, folder: Path) -> Iterator[SeaweedFS | None]:
    """The S3 server of a training that needs one."""
    if training.way != "s3":
        yield None
        return
    server = SeaweedFS(folder)
    server.start()
    training.environment |= server.environment()
    try:
        yield server
    finally:
        server.kill()


def main() -> None:
    """Measure and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=60, help="kills per way [60]")
    parser.add_argument(
        "--start", choices=["process", "torchrun", "dvc", "s3"], action="append", help="several [process]"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments [0]")
    options = parser.parse_args()
    results = {}
    for way in options.start or ["process"]:
        with tempfile.TemporaryDirectory() as folder:
            training = Training(Path(folder) / "run", way)
            with storage(training, Path(folder) / "server") as server:
                results[way] = measure(training, options.kills, random.Random(f"{way} {options.seed}"), server)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
