"""Starts the process that logs a stage to W&B and TensorBoard; its failures do not affect the stage.

That process is `trm.tracking.process`. It reads JSON lines from stdin: first a description of the run and, after
the stage has succeeded, the path of its output. Without the second line the run is marked as failed; when the stage is
started again, the run continues under the same id.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trm.config.tracking import TrackingParams
from trm.utils.paths import states_folder

UPLOAD_TIMEOUT = 120.0
"""Seconds that a finished stage waits for the upload."""


@contextmanager
def tracked(
    settings: TrackingParams | None, stage: str, manifests: Mapping[str, Any], request: Mapping[str, Any], key: str
) -> Iterator[Callable[..., None]]:
    """Log stage `train` or `evaluate` while the block runs; call the yielded function with the folders at the end.

    manifests: those of the stage's inputs. request, key: those of the stage. Failures are printed in one line.
    """
    if settings is None or not settings.enabled or stage not in ("train", "evaluate"):
        yield lambda **_: None
        return
    start = {"settings": settings.model_dump(mode="json"), "stage": stage, **_facts(stage, manifests, request, key)}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "trm.tracking.process"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the stage; this process ends after it
        )
    except OSError as error:
        print(f"tracking: cannot be started ({error}); the stage continues", file=sys.stderr, flush=True)
        yield lambda **_: None
        return
    _send(process, start)
    try:
        yield lambda **folders: _send(process, {name: str(folder) for name, folder in folders.items()})
    finally:
        _end(process)


def run_id(key: str) -> str:
    """The W&B id of the run of the model with this content key."""
    return key[:16]


def run_name(settings: TrackingParams | None, stage: str, key: str) -> str | None:
    """The path of the W&B run of a training, `[entity/]project/id`; None if tracking is disabled."""
    if settings is None or settings.mode == "disabled" or stage != "train":
        return None
    return "/".join(part for part in (settings.entity, settings.project, run_id(key)) if part)


def _facts(stage: str, manifests: Mapping[str, Any], request: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Id, settings and lineage of the run. A model and its evaluation share a run, named by the model's content key."""
    trained = manifests["model"] if stage == "evaluate" else {"key": key, "params": request["params"]}
    params = {**manifests["dataset"]["params"], **trained["params"], **request["params"]}
    lineage = {**manifests["dataset"]["inputs"], **request["inputs"], stage: key, "versions": request["versions"]}
    facts: dict[str, Any] = {"id": run_id(trained["key"]), "config": {**params, "lineage": lineage}}
    if stage == "train":
        facts["logs"] = str(states_folder() / key)
    seedless = {name: part for name, part in trained["params"].get("train", {}).items() if name != "seed"}
    siblings = {**trained["params"], "train": seedless, "dataset": manifests["dataset"]["key"]}
    return facts | {"siblings": siblings}


def _send(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # the process has ended and printed the reason
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(UPLOAD_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(
            f"tracking: the upload to W&B took more than {UPLOAD_TIMEOUT:.0f} s; the rest is in "
            f"{wandb_folder() / 'wandb'}: `wandb sync` uploads it",
            file=sys.stderr,
            flush=True,
        )


def wandb_folder() -> Path:
    """The folder in which W&B creates its folder `wandb`."""
    return Path(os.environ.get("WANDB_DIR") or Path.cwd())
