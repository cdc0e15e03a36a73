"""Time and memory use of stage `report` with a million predictions, and load time of its page.

    python -m benchmarks.report [--predictions 1000000]

Prints one JSON object. The predictions of a tiny 9x9 Sudoku experiment, evaluated with four votes, are repeated with
different halt logits and ratings up to the requested number. A separate process builds the page.

- build_s: wall time of `report` without imports, including the inference for 12 examples.
- peak_rss_mb, imports_rss_mb: peak resident memory of that process at the end, and before `report` starts.
- page_bytes, predictions_bytes: sizes of the two files.
- load_ms, first_paint_ms: time from the start of navigation to the end of the load event and to the first contentful
  paint; median of five page loads in new Chromium contexts, 1400 pixels wide. Null if Chromium is not installed.
- main_thread_ms: processor time of the page's main thread during the load.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.augment import peak_mb
from trm.config.params import Params
from trm.stages.params import load_recipe
from trm.stages.records import STAGES
from trm.stages.runner import run_stage

CHANGES = {
    "data.size": 9,
    "data.source.train_puzzles": 60,
    "data.source.test_puzzles": 200,
    "data.allow_leakage": False,
    "augment.num_aug": 10,
    "augment.validation_groups": 10,
    "train.epochs": 10,
    "evaluate.max_steps": 8,
}
KEY = "0" * 64
PAGE_LOADS = 5


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_build(Path(options.child))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = _params()
        for stage in STAGES:
            if stage.name != "report":
                sections = {section: getattr(params, section) for section in stage.sections}
                inputs = {name: str(folder / name) for name in stage.inputs}
                run_stage(stage, sections, inputs, str(folder / stage.output))
        _repeat(folder / "evaluation/predictions.parquet", options.predictions)
        command = [sys.executable, "-m", "benchmarks.report", "--child", name]
        figures = json.loads(subprocess.check_output(command, text=True))
        figures["predictions_bytes"] = (folder / "evaluation/predictions.parquet").stat().st_size
        print(json.dumps(figures | _open(folder / "page/report.html"), indent=2))


def _params() -> Params:
    return load_recipe("sudoku-4x4", CHANGES)


def _repeat(file: Path, count: int) -> None:
    """Repeat the rows of `file` up to `count` rows; each copy has other tasks, halt logits and ratings."""
    table, rng = pq.read_table(file), np.random.default_rng(0)
    rows = len(table)
    temporary = file.with_suffix(".new")
    with pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
        for number in range(-(-count // rows)):
            part = table.slice(0, min(rows, count - number * rows))
            tasks = pa.array([f"{number}-{task}" for task in part.column("task").to_pylist()])
            logits = part.column("halt_logit").to_numpy() + rng.normal(0, 2, len(part))
            ratings = np.repeat(rng.integers(0, 500, -(-len(part) // 4)), 4)[: len(part)]
            for name, values in {
                "task": tasks,
                "halt_logit": pa.array(logits, pa.float32()),
                "rating": ratings,
            }.items():
                index = part.schema.get_field_index(name)
                part = part.set_column(index, part.schema.field(index), pa.array(values, part.schema.field(index).type))
            writer.write_table(part)
    temporary.replace(file)


def _build(folder: Path) -> dict[str, float]:
    from trm.reporting.html.page import FILE, report

    (folder / "page").mkdir()
    before, started = peak_mb(), time.perf_counter()
    settings = _params().report.model_copy(update={"test_time_compute": None})
    inputs = {name: folder / name for name in ("dataset", "model", "evaluation")}
    report(settings, **inputs, out=folder / "page", key=KEY)
    seconds = time.perf_counter() - started
    size = (folder / "page" / FILE).stat().st_size
    return {
        "build_s": round(seconds, 2),
        "peak_rss_mb": round(peak_mb()),
        "imports_rss_mb": round(before),
        "page_bytes": size,
    }


def _open(page: Path) -> dict[str, float | None]:
    from tests.browser import chromium, started

    if chromium() is None:
        return {"load_ms": None, "first_paint_ms": None, "main_thread_ms": None}
    loads, paints, main_thread = [], [], []
    with started() as browser:
        for _ in range(PAGE_LOADS):
            with browser.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True) as context:
                window = context.new_page()
                protocol = context.new_cdp_session(window)
                protocol.send("Performance.enable", {"timeDomain": "threadTicks"})
                window.goto(page.as_uri())
                window.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
                loads.append(window.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
                paints.append(window.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                page_metrics = protocol.send("Performance.getMetrics")["metrics"]
                main_thread.append(next(1000 * m["value"] for m in page_metrics if m["name"] == "TaskDuration"))
    measured = {"load_ms": loads, "first_paint_ms": paints, "main_thread_ms": main_thread}
    return {name: round(statistics.median(values)) for name, values in measured.items()}


if __name__ == "__main__":
    main()
