"""Time and operations until a training reaches an accuracy on held-out puzzles.

    python -m benchmarks.time_to_accuracy --recipe sudoku-extreme-fast --minutes 8 --out results

Trains a recipe for a limited time and notes when each validation ends. `--set KEY=VALUE` changes the recipe, such as
the origin of its data. A recipe without validation groups gets 100 of them. A second call with these arguments resumes
the training and extends the curve. Writes to DIR:

- curve.json: for each validation the seconds, the operations and the accuracies, and the time to some accuracies
- curve.png: exact accuracy against time

Seconds count from the start of the training; those between two calls do not count.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from trm.config.overrides import parse_overrides
from trm.config.params import Params
from trm.config.recipes import changed, recipe_text
from trm.data.batches import total_steps
from trm.data.parquet import read_meta, read_split
from trm.reporting.training_log import read_log
from trm.stages.params import load_params
from trm.storage.artifacts import write_json
from trm.training.cost import training_operations
from trm.utils.device import resolve_device

LEVELS = (0.5, 0.7, 0.874, 0.9)
"""Exact accuracies whose time is reported; 0.874 is the published one on Sudoku-Extreme."""
VALIDATION_GROUPS = 100
INTERVAL = 0.2
"""Seconds between two looks at the log."""
MINUTE = 60


def prepare(recipe: str, changes: Sequence[str], folder: Path) -> Params:
    """Write `folder`/params.yaml and make the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    text = changed(recipe_text(recipe), parse_overrides(changes))
    file = folder / "params.yaml"
    file.write_text(text, encoding="utf-8")
    params = load_params(file)
    if not params.augment.validation_groups:
        file.write_text(changed(text, {"augment.validation_groups": VALIDATION_GROUPS}), encoding="utf-8")
        params = load_params(file)
    for command in (("fetch", "--raw", "raw"), ("augment", "--raw", "raw", "--dataset", "dataset")):
        subprocess.run([*_trm(command[0]), *command[1:]], cwd=folder, check=True, env=_environment(folder))
    return params


def _trm(command: str) -> list[str]:
    return [sys.executable, "-m", "trm", command, "--params", "params.yaml"]


def _environment(folder: Path) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "TRM_STATE_DIR": str((folder / "states").resolve())}


def train(folder: Path, seconds: float, curve: list[dict[str, float]], used: float) -> float:
    """Train for at most `seconds`, and extend `curve`. `used`: seconds of earlier calls. Returns those of all calls."""
    command = [*_trm("train"), "--dataset", "dataset", "--model", "model"]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=_environment(folder))
    while process.poll() is None:
        time.sleep(INTERVAL)
        _extend(curve, folder, used + time.monotonic() - start)
        if time.monotonic() - start > seconds:
            process.send_signal(signal.SIGINT)
            process.wait()
    used += time.monotonic() - start
    _extend(curve, folder, used)
    if process.returncode not in (0, 128 + signal.SIGINT):
        raise SystemExit(f"the training ended with exit code {process.returncode}")
    return used


def _extend(curve: list[dict[str, float]], folder: Path, seconds: float) -> None:
    """Add the new lines of the validation log. The log of a finished training is with its model."""
    for file in (*folder.glob("states/*/validation.tsv"), folder / "model/validation.tsv"):
        log = read_log(file)
        columns = (log.get(name, ()) for name in ("step", "exact_accuracy", "cell_accuracy"))
        for step, exact, cell in zip(*columns, strict=True):
            if step > (curve[-1]["step"] if curve else 0):
                curve.append(
                    {"step": int(step), "seconds": round(seconds, 1), "exact": float(exact), "cell": float(cell)}
                )


def result(params: Params, folder: Path, curve: list[dict[str, float]], used: float) -> dict[str, Any]:
    """The contents of curve.json."""
    meta, total = (
        read_meta(folder / "dataset"),
        total_steps(read_split(folder / "dataset/train"), params.train.epochs, params.train.global_batch_size),
    )
    for point in curve:
        done = point["step"] / total
        point["operations"] = training_operations(params.model, params.train, meta, total, done)
    device = resolve_device(params.train.device)
    reached = {level: next((point["seconds"] for point in curve if point["exact"] >= level), None) for level in LEVELS}
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(used, 1),
        "steps": total,
        "seconds_to": {f"{level:g}": seconds for level, seconds in reached.items()},
        "validations": curve,
    }


def draw(curve: Sequence[dict[str, float]], title: str, file: Path) -> None:
    """Exact accuracy against minutes."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["seconds"] / MINUTE for point in curve], [point["exact"] for point in curve], marker=".")
    axes.set(title=title, xlabel="minutes", ylabel="validation: exact accuracy", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sudoku-extreme-fast", help="name of the recipe")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of the training in this call")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of data, states and results")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    params = prepare(arguments.recipe, arguments.set, folder)
    file = folder / "curve.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"validations": [], "seconds": 0.0}
    curve = earlier["validations"]
    used = train(folder, MINUTE * arguments.minutes, curve, earlier["seconds"])
    results = result(params, folder, curve, used)
    write_json(file, results)
    draw(curve, f"{arguments.recipe}, {results['device']}", folder / "curve.png")
    print(json.dumps({name: value for name, value in results.items() if name != "validations"}))


if __name__ == "__main__":
    main()
