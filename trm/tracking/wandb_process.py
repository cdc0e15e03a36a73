"""The process that follows a stage's logs and tells them to Weights & Biases; `trm.tracking` starts it."""

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
"""Seconds between two looks at the logs."""
PICTURES = 64
"""Puzzles in the table of predictions."""
LOGS = ("train", "validation")


def main() -> None:
    """Follow the run that stdin names until the stage has ended."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    start = json.loads(lines.get())
    if importlib.util.find_spec("wandb") is None:
        _say("wandb is not installed; `pip install 'trm[tracking]'`, or set tracking.mode to disabled")
        return
    run = _begin(start)
    told = _Told(run)
    logs = Path(start["logs"]) if "logs" in start else None
    ended = None
    while ended is None:
        try:
            ended = lines.get(timeout=POLL)
        except queue.Empty:
            if logs:
                told.look(logs)
    if not ended:  # the stage was stopped, or failed
        if logs:
            told.look(logs)
        run.finish(exit_code=1)
        return
    folders = {name: Path(folder) for name, folder in json.loads(ended).items()}
    if start["stage"] == "train":
        told.look(folders["out"])
        _tell_model(run, folders["out"])
    else:
        _tell_evaluation(run, folders)
    run.finish()


def _read(lines: "queue.Queue[str]") -> None:
    while line := sys.stdin.readline():
        lines.put(line)
    lines.put("")


def _begin(start: dict[str, Any]) -> "Run":
    """The run, online where that is asked for and possible, else offline."""
    import wandb

    settings = TrackingParams.model_validate_json(json.dumps(start["settings"]))
    group = settings.group or hashlib.sha256(json.dumps(start["siblings"], sort_keys=True).encode()).hexdigest()[:12]

    def begin(mode: Literal["online", "offline"]) -> "Run":
        return wandb.init(
            entity=settings.entity,
            project=settings.project,
            dir=str(wandb_folder()),
            id=start["id"],
            name=start["id"],
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
            ),
        )

    try:
        run = begin("online" if settings.mode == "online" else "offline")
    except Exception as error:  # no key, a wrong one, no network, no such entity
        reason = " ".join(str(error).split())[:200]
        _say(f"W&B cannot be reached ({reason}); the run is kept offline, `wandb sync` sends it later")
        wandb.teardown()  # what is left of the try would hold back the next one
        run = begin("offline")
    _say(f"W&B run {Path(run.dir).parent if run.offline else run.url}")
    for log in LOGS:
        run.define_metric(f"{log}/step", hidden=True)
        run.define_metric(f"{log}/*", step_metric=f"{log}/step")
    return run


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


class _Told:
    """What of the logs has been told; a run that goes on continues its curves after their last point."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.last = {log: int(run.summary.get(f"{log}/step", -1)) for log in LOGS}

    def look(self, folder: Path) -> None:
        """Tell the lines that have come."""
        for log in LOGS:
            for row in _rows(folder / f"{log}.tsv"):
                if int(row["step"]) > self.last[log]:
                    self.last[log] = int(row["step"])
                    self.run.log({f"{log}/{name}": float(value) for name, value in row.items() if value})


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole lines of a log."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), delimiter="\t"))


def _tell_model(run: "Run", folder: Path) -> None:
    import wandb

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    run.summary.update(manifest["facts"])
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"key": manifest["key"], **manifest["facts"]})
    for path in sorted(folder.iterdir()):
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _tell_evaluation(run: "Run", folders: dict[str, Path]) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    import wandb

    from trm.data.parquet import read_meta
    from trm.reporting.figures.pictures import picture
    from trm.reporting.predictions import seen, spread

    metrics = json.loads((folders["out"] / "metrics.json").read_text(encoding="utf-8"))
    run.summary.update({f"test/{name}": value for name, value in metrics.items()})
    meta = read_meta(folders["dataset"])
    predictions = pq.read_table(folders["out"] / "predictions.parquet")
    names = ("task", "pair", "exact", "valid", "votes", "halt_logit", "rating")
    table = wandb.Table(columns=["question", "answer", "right answer", *names])
    itself = predictions.take(np.flatnonzero(predictions.column("version").to_numpy() == 0))
    for one in seen(folders["dataset"], meta, itself.take(spread(len(itself), PICTURES))):
        pictures: list[Image | None] = [picture(meta, one.question), picture(meta, one.answer, one.question, one.right)]
        pictures.append(picture(meta, one.right, one.question) if one.right is not None else None)
        images = [wandb.Image(shown) if shown is not None else None for shown in pictures]
        table.add_data(*images, *(one.line[name] for name in names))
    run.log({"predictions": table})


if __name__ == "__main__":
    for _kind in ("DATA", "CACHE", "CONFIG"):  # W&B's own places are in the home folder, which a container has not
        os.environ.setdefault(f"WANDB_{_kind}_DIR", str(wandb_folder() / "wandb" / _kind.lower()))
    main()
