"""The process that uploads the logs and results of a stage to Weights & Biases; `trm.tracking.client` starts it."""

import csv
import hashlib
import importlib.util
import io
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trm.config.tracking import TrackingParams
from trm.tracking.client import wandb_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from wandb import Run

POLL = 2.0
"""Seconds between two reads of the logs."""
PICTURES = 64
"""Maximum number of puzzles in the table of predictions."""
LOGS = ("train", "validation")
INIT_TIMEOUT = 20.0
"""Seconds that the start of an online run may take; `WANDB_INIT_TIMEOUT` overrides it."""
MAX_DELETED = 3
"""Maximum number of ids that are tried if runs with these ids were deleted: W&B never accepts an id again."""


def main() -> None:
    """Log the run described on stdin until the stage has ended."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    start = json.loads(lines.get())
    if importlib.util.find_spec("wandb") is None:
        _log("wandb is not installed; run `pip install 'trm[tracking]'` or set tracking.mode to disabled")
        return
    run = _start_run(start)
    uploader = _LogUploader(run)
    logs = Path(start["logs"]) if "logs" in start else None
    ended = None
    while ended is None:
        try:
            ended = lines.get(timeout=POLL)
        except queue.Empty:
            if logs:
                uploader.upload(logs)
    if not ended:  # the stage was interrupted or failed
        if logs:
            uploader.upload(logs)
        run.finish(exit_code=1)
        return
    folders = {name: Path(folder) for name, folder in json.loads(ended).items()}
    if start["stage"] == "train":
        uploader.upload(folders["out"])
        _upload_model(run, folders["out"])
    else:
        _upload_evaluation(run, folders)
    run.finish()


def _read(lines: "queue.Queue[str]") -> None:
    while line := sys.stdin.readline():
        lines.put(line)
    lines.put("")


def _start_run(start: dict[str, Any]) -> "Run":
    """Start the run, online if requested and possible, else offline."""
    import wandb

    settings = TrackingParams.model_validate_json(json.dumps(start["settings"]))
    group = settings.group or hashlib.sha256(json.dumps(start["siblings"], sort_keys=True).encode()).hexdigest()[:12]

    def init(mode: Literal["online", "offline"], id: str) -> "Run":
        return wandb.init(
            entity=settings.entity,
            project=settings.project,
            dir=str(wandb_folder()),
            id=id,
            name=id,
            group=group,
            tags=settings.tags,
            config=start["config"],
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                disable_code=True,
                save_code=False,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT),
            ),
        )

    ids, run = [start["id"], *(f"{start['id']}-{number}" for number in range(2, MAX_DELETED + 1))], None
    while run is None and settings.mode == "online":
        try:
            run = init("online", ids[0])
        except Exception as error:  # no or wrong API key, no network, unknown entity, a deleted run
            reason = " ".join(str(error).split())[:200]
            wandb.teardown()  # the failed attempt would block the next one
            if "previously created and deleted" in reason and len(ids) > 1:
                _log(f"the run {ids.pop(0)} was deleted in W&B; this one is {ids[0]}")
                continue
            _log(f"W&B is unavailable ({reason}); the run is stored offline, `wandb sync` uploads it later")
            break
    run = run or init("offline", ids[0])
    _log(f"W&B run {Path(run.dir).parent if run.offline else run.url}")
    for log in LOGS:
        run.define_metric(f"{log}/step", hidden=True)
        run.define_metric(f"{log}/*", step_metric=f"{log}/step")
    return run


def _log(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


class _LogUploader:
    """Uploads new lines of the logs; a resumed run continues its curves after their last point."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.last = {log: int(run.summary.get(f"{log}/step", -1)) for log in LOGS}

    def upload(self, folder: Path) -> None:
        """Upload the lines added since the last call."""
        for log in LOGS:
            for row in _rows(folder / f"{log}.tsv"):
                if int(row["step"]) > self.last[log]:
                    self.last[log] = int(row["step"])
                    self.run.log({f"{log}/{name}": float(value) for name, value in row.items() if value})


def _rows(path: Path) -> list[dict[str, str]]:
    """The complete lines of a log."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), delimiter="\t"))


def _upload_model(run: "Run", folder: Path) -> None:
    import wandb

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    run.summary.update(manifest["facts"])
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"key": manifest["key"], **manifest["facts"]})
    for path in sorted(folder.iterdir()):
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _upload_evaluation(run: "Run", folders: dict[str, Path]) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    import wandb

    from trm.data.parquet import read_meta
    from trm.datasets.drawings import get_drawing
    from trm.reporting.figures.pictures import picture
    from trm.reporting.predictions import evenly_spaced, predictions_of

    metrics = json.loads((folders["out"] / "metrics.json").read_text(encoding="utf-8"))
    run.summary.update({f"test/{name}": value for name, value in metrics.items()})
    meta = read_meta(folders["dataset"])
    predictions = pq.read_table(folders["out"] / "predictions.parquet")
    drawing = get_drawing(meta)
    names = ("task", "pair", "exact", "valid", "votes", "halt_logit", "rating")
    table = wandb.Table(columns=["question", "answer", "solution", *names])
    single = predictions.take(np.flatnonzero(predictions.column("augmentation").to_numpy() == 0))
    rows = single.take(evenly_spaced(len(single), PICTURES))
    for prediction in predictions_of(folders["dataset"], meta, rows):
        question, answer, solution = prediction.question, prediction.answer, prediction.solution
        pictures: list[Image | None] = [picture(drawing, question), picture(drawing, answer, question, solution)]
        pictures.append(picture(drawing, solution, question) if solution is not None else None)
        images = [None if image is None else wandb.Image(image) for image in pictures]
        table.add_data(*images, *(prediction.row[name] for name in names))
    run.log({"predictions": table})


if __name__ == "__main__":
    for _kind in ("DATA", "CACHE", "CONFIG"):  # the default is the home folder, which containers may lack
        os.environ.setdefault(f"WANDB_{_kind}_DIR", str(wandb_folder() / "wandb" / _kind.lower()))
    main()
