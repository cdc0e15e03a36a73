"""The process that copies the logs and results of a stage to W&B and TensorBoard; `trm.tracking.client` starts it."""

import importlib.util
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trm.config.tracking import TrackingParams
from trm.tracking.client import wandb_folder
from trm.utils.file_formats import printable

POLL = 2.0
"""Seconds between two reads of the logs."""
Result = TypeVar("Result")


class Destination(Protocol):
    """A place that logs and results are copied to."""

    def update(self, logs: Path) -> None:
        """Copy the lines that were added to the logs in the folder `logs` since the last call."""
        ...

    def finish(self, folders: dict[str, Path] | None) -> None:
        """Copy the results of the stage, whose folders are given by name; None: it was interrupted or failed."""
        ...


def main() -> None:
    """Copy the logs of the run described on stdin until the stage has ended, then its results."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    start = json.loads(lines.get())
    logs = Path(start["logs"]) if "logs" in start else None
    destinations = _destinations(start)
    ended = None
    while ended is None:
        try:
            ended = lines.get(timeout=POLL)
        except queue.Empty:
            if logs:
                _update(destinations, logs)
    folders = {name: Path(folder) for name, folder in json.loads(ended).items()} if ended else None
    final_logs = folders["out"] if folders else logs  # a finished training has deleted its state
    if logs and final_logs:
        _update(destinations, final_logs)
    for destination in destinations:
        _attempt(lambda destination=destination: destination.finish(folders))


def _update(destinations: list[Destination], logs: Path) -> None:
    """Update all destinations; one that fails is not used again."""
    destinations[:] = [each for each in destinations if _attempt(lambda each=each: each.update(logs) or True)]


def _attempt(action: Callable[[], Result]) -> Result | None:
    """Return `action()`; a failure is printed in one line and gives None."""
    try:
        return action()
    except Exception as error:
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        print(f"tracking: {reason}; the stage continues", file=sys.stderr, flush=True)
        return None


def _read(lines: "queue.Queue[str]") -> None:
    while line := sys.stdin.readline():
        lines.put(line)
    lines.put("")


def _destinations(start: dict[str, Any]) -> list[Destination]:
    """The destinations that the settings request and whose packages are installed."""
    settings = TrackingParams.model_validate_json(json.dumps(start["settings"]))
    found: list[Destination | None] = []
    if settings.mode != "disabled" and _is_installed("wandb", "tracking.mode", "tracking"):
        from trm.tracking.wandb_run import WandbRun

        found.append(_attempt(lambda: WandbRun(settings, start)))
    if settings.tensorboard and "logs" in start and _is_installed("tensorboard", "tracking.tensorboard", "tensorboard"):
        from trm.tracking.tensorboard import EventFiles

        folder = Path(settings.tensorboard) / start["id"]
        found.append(_attempt(lambda: EventFiles(folder)))
    return [destination for destination in found if destination is not None]


def _is_installed(package: str, setting: str, extra: str) -> bool:
    installed = importlib.util.find_spec(package) is not None
    if not installed:
        remedy = f"run `pip install 'trm[{extra}]'` or disable {setting}"
        print(f"tracking: {package} is not installed; {remedy}", file=sys.stderr, flush=True)
    return installed


if __name__ == "__main__":
    for _kind in ("DATA", "CACHE", "CONFIG"):  # the default is the home folder, which containers may lack
        os.environ.setdefault(f"WANDB_{_kind}_DIR", str(wandb_folder() / "wandb" / _kind.lower()))
    main()
