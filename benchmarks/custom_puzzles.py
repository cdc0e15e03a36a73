"""Six kinds of puzzles, trained with the settings that `trm recipe suggest` writes for their files.

    python -m benchmarks.custom_puzzles --puzzle all --minutes 10 --out results

For each puzzle it writes a CSV file to DIR/NAME, then runs `trm recipe suggest NAME.csv --minutes M` and `trm run`
there. `--rows` changes the number of puzzles. Prints a table, and writes DIR/custom-puzzles.json: for each puzzle the
rows, the settings that were chosen, the seconds, the exact accuracy on the test puzzles with its 95 % interval, and the
validation curve. A second call keeps the suggestions and results of the first one, and resumes interrupted trainings.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.puzzle_generators import PUZZLES, write_puzzles
from trm.reporting.training_log import read_log
from trm.storage.artifacts import timing_file, write_json

ROWS = {"latin": 1500, "sudoku-letters": 1000, "mirror": 1000, "sorted-rows": 1500, "enclosed": 2000, "path": 2000}
"""Puzzles of each file; a tenth each, at most 100 and 200, is for validation and test."""
SHOWN = (
    "data.symmetries", "augment.num_aug", "model.mlp_t", "model.pos_encodings", "model.hidden_size", "train.lr",
    "train.global_batch_size", "train.epochs", "train.ema_rate",
)  # fmt: skip
"""Settings in the results."""
METRICS = ("puzzles", "exact_accuracy", "cell_accuracy", "num_votes", "pass@1", "interval_95")
"""Metrics in the results."""


def run(name: str, rows: int, minutes: float, folder: Path) -> None:
    """Suggest, train and evaluate."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "params.yaml").exists():
        write_puzzles(folder / f"{name}.csv", name, rows)
        _trm(folder, "recipe", "suggest", f"{name}.csv", "--minutes", str(minutes))
    _trm(folder, "run")


def result(rows: int, minutes: float, folder: Path) -> dict[str, Any]:
    """The result of one puzzle."""
    params = YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text(encoding="utf-8"))
    outputs = folder / "outputs"
    timing = json.loads(timing_file(outputs / "model").read_text(encoding="utf-8"))
    facts = json.loads((outputs / "model/manifest.json").read_text(encoding="utf-8"))["facts"]
    metrics = json.loads((outputs / "evaluation/metrics.json").read_text(encoding="utf-8"))
    log = read_log(outputs / "model/validation.tsv")
    return {
        "rows": rows,
        "minutes": minutes,
        "settings": {key: params[key.split(".")[0]][key.split(".")[1]] for key in SHOWN},
        "steps": facts["steps"],
        "train_seconds": round(timing["train_seconds"]),
        "threads": facts["threads"],
        "metrics": {name: metrics[name] for name in METRICS},
        "validation": [
            [int(step), round(float(exact), 4)] for step, exact in zip(log["step"], log["exact_accuracy"], strict=True)
        ],
    }


def _trm(folder: Path, *arguments: str) -> None:
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "TRM_STATE_DIR": str((folder / "states").resolve())}
    subprocess.run([sys.executable, "-m", "trm", *arguments], cwd=folder, env=environment, check=True)


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| Puzzle | Rows | Symmetries | Model | Steps | Training | Exact | Votes |",
        "|---|--:|---|---|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        settings, metrics = result["settings"], result["metrics"]
        symmetries = ", ".join(f"`{symmetry}`" for symmetry in settings["data.symmetries"]) or "none"
        low, high = (f"{100 * metrics['interval_95']['exact_accuracy'][side]:.1f}" for side in (0, 1))
        model = "MLP" if settings["model.mlp_t"] else "attention"
        cells = [f"`{name}`", f"{result['rows']:,}", symmetries, model, f"{result['steps']:,}"]
        cells += [f"{result['train_seconds']} s", f"{100 * metrics['exact_accuracy']:.1f} % [{low}, {high}]"]
        lines.append("| " + " | ".join([*cells, f"{100 * metrics['pass@1']:.1f} %"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzle", choices=[*PUZZLES, "all"], action="append", required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for the training of a puzzle")
    parser.add_argument("--rows", type=int, help="puzzles in the file; default: as in docs/results.md")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of files and results")
    arguments = parser.parse_args()
    file: Path = arguments.out / "custom-puzzles.json"
    results = json.loads(file.read_text(encoding="utf-8"))["puzzles"] if file.exists() else {}
    for name in ROWS if "all" in arguments.puzzle else arguments.puzzle:
        rows, folder = arguments.rows or ROWS[name], arguments.out / name
        run(name, rows, arguments.minutes, folder)
        results[name] = result(rows, arguments.minutes, folder)
        write_json(file, {"machine": platform.machine(), "puzzles": results})
    print(table(results))


if __name__ == "__main__":
    main()
