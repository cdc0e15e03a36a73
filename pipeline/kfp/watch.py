"""Watching a run: its stages, the newest log lines of what runs, the scores of what is done."""

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.kfp.client import ENDED, Kubeflow, Run, Task
from pipeline.kfp.definition import key_parameter
from trm import s3
from trm.errors import Fault, UserError
from trm.stages import STAGES

POLL = 5.0
"""Seconds between two looks."""
LINES = 8
"""Log lines shown on a terminal."""
STYLES = {"SUCCEEDED": "green", "SKIPPED": "green", "RUNNING": "yellow", "FAILED": "red", "CANCELED": "red"}


def watch(kubeflow: Kubeflow, run_id: str) -> Run:
    """Show the run until it ends; returns how it ended."""
    shown = _Shown(kubeflow)
    console = Console()
    run = kubeflow.get(run_id)
    print(f"{run.name}: {kubeflow.address(run.id)}", file=sys.stderr)
    if not console.is_terminal:
        shown.print_news(run)
        while run.state not in ENDED:
            time.sleep(POLL)
            run = kubeflow.get(run_id)
            shown.print_news(run)
        return run
    with Live(shown.table(run), console=console) as live:
        while run.state not in ENDED:
            time.sleep(POLL)
            run = kubeflow.get(run_id)
            live.update(shown.table(run), refresh=True)
    return run


def verdict(run: Run) -> str:
    """How a run that ended without success ended, in one line."""
    failed = [task for task in stage_tasks(run).values() if task.state == "FAILED"]
    problem = next(
        (f"stage {task.name}: {task.problem or 'failed'}" for task in failed), run.problem or "no reason given"
    )
    return f"run {run.id} {run.state.lower()}: {problem}"


def stage_tasks(run: Run) -> dict[str, Task]:
    """The task of each stage that has begun."""
    names = {stage.name for stage in STAGES}
    return {task.name: task for task in run.tasks if task.name in names}


class _Shown:
    """What has been shown of a run, so that plain lines are said once."""

    def __init__(self, kubeflow: Kubeflow) -> None:
        self._kubeflow = kubeflow
        self._states: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._metrics: dict[str, str] = {}

    def print_news(self, run: Run) -> None:
        """Plain lines: changes of state, new log lines, new scores."""
        for name, task in stage_tasks(run).items():
            # While it runs, and once more when it has ended.
            if task.state == "RUNNING" or self._states.get(name) == "RUNNING":
                for line in self._log(run, task)[self._lines.get(name, 0) :]:
                    print(f"{name} | {line}")
                    self._lines[name] = self._lines.get(name, 0) + 1
            if self._states.get(name) != task.state:
                self._states[name] = task.state
                scores = self._scores(run, task)
                print(f"{name}: {task.state.lower()}" + (f", {scores}" if scores else ""), flush=True)

    def table(self, run: Run) -> Group:
        """The stages, and below them the end of the log of the one that runs."""
        tasks = stage_tasks(run)
        table = Table(title=f"{run.name}: {run.state.lower()}", title_justify="left", box=None)
        for title in ("stage", "state", "scores"):
            table.add_column(title)
        log: list[str] = []
        for stage in STAGES:
            task = tasks.get(stage.name)
            state = task.state if task else "PENDING"
            table.add_row(
                stage.name, Text(state.lower(), STYLES.get(state, "dim")), self._scores(run, task) if task else ""
            )
            if task and state == "RUNNING":
                log = self._log(run, task)[-LINES:]
        return Group(table, Text("\n".join(log), "dim"))

    def _log(self, run: Run, task: Task) -> list[str]:
        return self._kubeflow.log(run, task.pod).splitlines() if task.pod else []

    def _scores(self, run: Run, task: Task) -> str:
        """The metrics in the manifest of a stage that is done, where S3 can be read from here."""
        if task.state != "SUCCEEDED":
            return ""
        if task.name not in self._metrics:
            stage = next(stage for stage in STAGES if stage.name == task.name)
            uri = f"{run.arguments.get('root')}/{task.name}/{run.arguments.get(key_parameter(stage))}"
            try:
                manifest = s3.read_manifest(uri) or {}
            except (UserError, Fault) as error:
                manifest = {"facts": {"metrics": {"not to be read from here": str(error)}}}
            metrics = manifest.get("facts", {}).get("metrics", {})
            self._metrics[task.name] = ", ".join(
                f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in metrics.items()
            )
        return self._metrics[task.name]
