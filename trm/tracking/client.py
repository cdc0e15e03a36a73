"""Weights & Biases beside a stage: a process of its own follows the logs, so that nothing it does can harm the stage.

`trm.tracking.wandb_process` is that process. It is told what to do on its stdin, a JSON object a line: first what the run is, and
when the stage has ended well, where its output lies. Where that second line does not come, the run is shown as failed;
started again, the stage continues it under the same id.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trm.utils.paths import states_folder
from trm.config.base import Section

VARIABLE = "TRM_TRACKING"
"""The section as JSON, where a stage gets its settings otherwise than from a file: in a pod."""
PATIENCE = 120.0
"""Seconds for which an ended stage waits until everything is told."""


class TrackingParams(Section):
    """Section `tracking`: what is told to Weights & Biases. No result depends on it, so it has defaults and enters no
    key.
    """

    mode: Literal["disabled", "offline", "online"] = "disabled"
    """Offline: into a folder `wandb` here (or `$WANDB_DIR`), which `wandb sync` sends later."""
    project: str = "trm"
    entity: str | None = None
    """Team or user; null: the default of the key's owner."""
    group: str | None = None
    """Runs that belong together; null: the seeds of one experiment do."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] = ()


@contextmanager
def tracked(
    settings: TrackingParams | None, stage: str, manifests: Mapping[str, Any], request: Mapping[str, Any], key: str
) -> Iterator[Callable[..., None]]:
    """Tell of stage `train` or `evaluate` while the block runs; it calls what it gets with the folders at the end.

    `manifests` are those of the stage's inputs, `request` and `key` its own. What goes wrong here is said in a line.
    """
    if settings is None or settings.mode == "disabled" or stage not in ("train", "evaluate"):
        yield lambda **_: None
        return
    start = {"settings": settings.model_dump(mode="json"), "stage": stage, **_facts(stage, manifests, request, key)}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "trm.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the stage: this process ends after it, in good order
        )
    except OSError as error:
        print(f"tracking: cannot be started ({error}); the stage goes on", file=sys.stderr, flush=True)
        yield lambda **_: None
        return
    _tell(process, start)
    try:
        yield lambda **folders: _tell(process, {name: str(folder) for name, folder in folders.items()})
    finally:
        _end(process)


def run_id(key: str) -> str:
    """The id of the run of a model with this content key."""
    return key[:16]


def run_name(settings: TrackingParams | None, stage: str, key: str) -> str | None:
    """How W&B finds the run of a training, as `[entity/]project/id`; None where it is told nothing."""
    if settings is None or settings.mode == "disabled" or stage != "train":
        return None
    return "/".join(part for part in (settings.entity, settings.project, run_id(key)) if part)


def _facts(stage: str, manifests: Mapping[str, Any], request: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Id, settings and lineage of the run: a model and its evaluation are one run, named by the model's content key."""
    trained = manifests["model"] if stage == "evaluate" else {"key": key, "params": request["params"]}
    params = {**manifests["dataset"]["params"], **trained["params"], **request["params"]}
    lineage = {**manifests["dataset"]["inputs"], **request["inputs"], stage: key, "versions": request["versions"]}
    facts: dict[str, Any] = {"id": run_id(trained["key"]), "config": {**params, "lineage": lineage}}
    if stage == "train":
        facts["logs"] = str(states_folder() / key)
    seedless = {name: part for name, part in trained["params"].get("train", {}).items() if name != "seed"}
    siblings = {**trained["params"], "train": seedless, "dataset": manifests["dataset"]["key"]}
    return facts | {"siblings": siblings}


def _tell(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it has died, and has said why
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(
            f"tracking: W&B did not take everything within {PATIENCE:.0f} s; what it missed lies in "
            f"{wandb_folder() / 'wandb'}: `wandb sync` sends it",
            file=sys.stderr,
            flush=True,
        )


def wandb_folder() -> Path:
    """Where W&B makes its folder `wandb`."""
    return Path(os.environ.get("WANDB_DIR") or Path.cwd())
