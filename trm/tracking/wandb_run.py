"""The run of a stage in Weights & Biases: its curves, its model and its predictions."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trm.config.tracking import TrackingParams
from trm.tracking.client import wandb_folder
from trm.tracking.logs import LOGS, LogReader

if TYPE_CHECKING:
    from PIL.Image import Image
    from wandb import Run

PICTURES = 64
"""Maximum number of puzzles in the table of predictions."""
INIT_TIMEOUT = 20.0
"""Seconds that the start of an online run may take; `WANDB_INIT_TIMEOUT` overrides it."""
MAX_DELETED = 3
"""Maximum number of ids that are tried if runs with these ids were deleted: W&B never accepts an id again."""


class WandbRun:
    """A run in Weights & Biases; a resumed training continues its curves after their last point."""

    def __init__(self, settings: TrackingParams, start: dict[str, Any]) -> None:
        """start: the description of the run; see `trm.tracking.client`."""
        self.stage, self.run = start["stage"], _start_run(settings, start)
        self.reader = LogReader({log: int(self.run.summary.get(f"{log}/step", -1)) for log in LOGS})

    def update(self, logs: Path) -> None:
        """Upload the new lines of the logs in the folder `logs`."""
        for _, values in self.reader.new_rows(logs):
            self.run.log(values)

    def finish(self, folders: dict[str, Path] | None) -> None:
        """Upload the results of the stage; without them the run is marked as failed."""
        if folders is None:
            self.run.finish(exit_code=1)
            return
        if self.stage == "train":
            _upload_model(self.run, folders["out"])
        else:
            _upload_evaluation(self.run, folders)
        self.run.finish()


def _start_run(settings: TrackingParams, start: dict[str, Any]) -> "Run":
    """Start the run, online if requested and possible, else offline."""
    import wandb

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
