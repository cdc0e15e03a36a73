"""Random damage of the training state: what is detected, what is published, and what is lost.

    python -m benchmarks.crash --damage 200

A small training is interrupted. For each damage, a copy of its state folder is damaged at random and the training is
resumed:

- bit: one bit of a file is flipped.
- truncation: a file loses its end, or all of its bytes.
- missing file: a file is deleted.
- mixed states: a file is replaced by the file of that name in the other state.
- NUL tail: the end of a file is overwritten with NUL bytes, or NUL bytes are added.

Figures, in total and per kind:

- detected: `trm verify` names the damaged file or its state.
- named: so does the training. It does not read the older state if the newer one is undamaged.
- wrong_bytes_published: trainings whose result differs from that of the uninterrupted training.
- refused: trainings that ended with an error. One damage leaves the other state whole, so none should.
- lost: trainings that did not resume from the newest state whose files are undamaged.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from trm.config.params import Params
from trm.datasets.augment import augment
from trm.datasets.fetch import fetch
from trm.stages.params import load_recipe
from trm.stages.verification import verify
from trm.training import trainer
from trm.utils.errors import Interrupted, UserError

CHANGES: dict[str, Any] = {
    "data.source.train_puzzles": 30,
    "data.source.test_puzzles": 5,
    "data.allow_leakage": True,
    "augment.num_aug": 2,
    "augment.validation_groups": 5,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.H_cycles": 1,
    "model.L_cycles": 1,
    "model.halt_max_steps": 2,
    "train.epochs": 12,
    "train.global_batch_size": 10,
    "train.eval_interval": 2,
    "train.log_interval": 1,
    "train.checkpoint_interval": 5,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.compile": False,
}
"""A training of 30 short steps."""
KEY = "key"
INTERRUPTED = 18
"""Step before which the training of 30 steps is interrupted: the states are those of steps 15 and 17."""


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--damage", type=int, nargs="?", const=200, default=200, help="number of damages [200]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages [0]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.damage, options.seed)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for kind, figures in results.items():
        print(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))


def measure(folder: Path, count: int, seed: int) -> dict[str, dict[str, int]]:
    """Apply `count` random damages in the empty `folder`; returns figures in total and per kind."""
    run, rng = _Training(folder), random.Random(seed)
    results: dict[str, dict[str, int]] = {name: {} for name in ("total", *KINDS)}
    for number in range(count):
        kind = rng.choice(list(KINDS))
        trial = folder / f"trial-{number}"
        subprocess.run(["cp", "-a", run.interrupted, trial], check=True)  # keeps the links between files
        damaged = _damage(trial / KEY, kind, rng)
        where = f"{damaged.parent if damaged.parent.name in run.steps else damaged}"
        problems = [problem for each in verify(str(trial)) for problem in each.problems]
        result, messages = run.resume(trial)
        figures = {
            "damages": 1,
            "detected": any(problem.startswith(where) for problem in problems),
            "named": f"warning: {where}" in messages,
            "wrong_bytes_published": result not in (None, run.expected),
            "refused": result is None,
            "lost": run.resumed_step(messages) != run.newest_step(damaged),
        }
        for name, value in figures.items():
            for row in (results["total"], results[kind]):
                row[name] = row.get(name, 0) + int(value)
        if figures["detected"] and not figures["wrong_bytes_published"] and not figures["lost"]:
            shutil.rmtree(trial)
        else:
            print(f"{kind} of {damaged}: {problems} {messages.strip()}", file=sys.stderr)
    return results


class _Training:
    """A training and its state folder after an interruption."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset, self.interrupted = folder, folder / "dataset", folder / "interrupted"
        self.params: Params = load_recipe("sudoku-4x4", CHANGES)
        for name in ("raw", "dataset"):
            (folder / name).mkdir()
        fetch(self.params.data, folder / "raw", KEY)
        augment(self.params.data, self.params.augment, folder / "raw", self.dataset, KEY)
        self.expected, _ = self.resume(folder / "uninterrupted")
        assert self.expected is not None
        step, calls = trainer.train_step, []

        def interrupted(*arguments: Any) -> object:  # noqa: ANN401 - those of `train_step`
            calls.append(None)
            if len(calls) == INTERRUPTED:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments)

        with patch.object(trainer, "train_step", interrupted), contextlib.suppress(Interrupted):
            self.resume(self.interrupted)
        self.steps = {path.parent.name: _step(path) for path in self.interrupted.glob(f"{KEY}/state-*/manifest.json")}

    def resume(self, states: Path) -> tuple[dict[str, bytes] | None, str]:
        """Train with the state in the folder `states`; returns the published files, if any, and the messages."""
        out, errors = states.with_name(f"{states.name}.out"), io.StringIO()
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with contextlib.redirect_stderr(errors), patch.dict(os.environ, {"TRM_STATE_DIR": str(states)}):
            try:
                trainer.train(self.params.model, self.params.train, self.dataset, out, KEY)
            except UserError as error:
                return None, f"{errors.getvalue()}{error}"
        result = {path.name: path.read_bytes() for path in out.iterdir()}
        shutil.rmtree(out)
        return result, errors.getvalue()

    def newest_step(self, damaged: Path) -> int:
        """The step of the newest state that does not contain the file `damaged`."""
        return max(step for name, step in self.steps.items() if name != damaged.parent.name)

    def resumed_step(self, messages: str) -> int:
        """The step that the training resumed from; 0: it started again or did not start."""
        found = re.search(r"resuming from step (\d+)", messages)
        return int(found[1]) if found else 0


def _step(manifest: Path) -> int:
    return json.loads(manifest.read_text())["step"]


def _damage(folder: Path, kind: str, rng: random.Random) -> Path:
    """Damage a random file of the states or logs in `folder`; returns it."""
    files = sorted([*folder.glob("state-*/*"), *folder.glob("*.tsv")])
    while True:
        path = rng.choice(files)
        before = path.read_bytes()
        KINDS[kind](path, rng)
        if not path.exists() or path.read_bytes() != before:
            return path


def flip_bit(path: Path, rng: random.Random) -> None:
    """Flip a random bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    """Remove a random number of bytes from the end, or all."""
    os.truncate(path, rng.choice([0, rng.randrange(path.stat().st_size)]))


def delete(path: Path, rng: random.Random) -> None:
    """Delete the file."""
    del rng
    path.unlink()


def mix(path: Path, rng: random.Random) -> None:
    """Replace the file by that of the same name in another state."""
    others = [other for other in path.parents[1].glob(f"state-*/{path.name}") if other != path]
    if others and path.parent.name.startswith("state-"):
        data = rng.choice(others).read_bytes()
        path.write_bytes(data)


def end_with_nul(path: Path, rng: random.Random) -> None:
    """Overwrite the end with NUL bytes, or add some."""
    size = path.stat().st_size
    os.truncate(path, rng.choice([size, rng.randrange(size)]))
    os.truncate(path, size + rng.choice([0, 1, 4096]))


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "bit": flip_bit,
    "truncation": truncate,
    "missing file": delete,
    "mixed states": mix,
    "NUL tail": end_with_nul,
}
"""Name -> function that damages a file at random; it may leave the file as it is."""

if __name__ == "__main__":
    main()
