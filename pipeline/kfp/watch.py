"""Progress of a run: the states of its stages, new log lines of running stages, metrics of finished stages."""

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from components.parameters import key_parameter
from pipeline.kfp.client import FINISHED_STATES, KfpClient, Run, Task
from trm.stages.records import STAGES
from trm.storage import s3
from trm.utils.errors import InternalError, UserError
from trm.utils.output import printable_lines

POLL_INTERVAL = 5.0
"""Seconds between two queries."""
LOG_LINES = 8
"""Log lines shown on a terminal."""
STYLES = {"SUCCEEDED": "green", "SKIPPED": "green", "RUNNING": "yellow", "FAILED": "red", "CANCELED": "red"}


def watch(client: KfpClient, run_id: str) -> Run:
    """Show the run until it has finished; return its final state."""
    view = _RunView(client)
    console = Console()
    run = client.get(run_id)
    print(f"{run.name}: {client.run_url(run.id)}", file=sys.stderr)
    if not console.is_terminal:
        view.print_changes(run)
        while run.state not in FINISHED_STATES:
            time.sleep(POLL_INTERVAL)
            run = client.get(run_id)
            view.print_changes(run)
        return run
    with Live(view.table(run), console=console) as live:
        while run.state not in FINISHED_STATES:
            time.sleep(POLL_INTERVAL)
            run = client.get(run_id)
            live.update(view.table(run), refresh=True)
    return run


def print_logs(client: KfpClient, run_id: str, stage: str | None, follow: bool) -> None:
    """Print the logs of the stages that have started, or of one; with `follow`, new lines until the run has finished.

    Raises `UserError` for an unknown stage, or if there is no log: the pods may have been deleted.
    """
    names = [each.name for each in STAGES]
    if stage is not None and stage not in names:
        raise UserError(f"--stage must be one of {', '.join(names)}. Got {stage}")
    printed: dict[str, int] = {}
    while True:
        run = client.get(run_id)
        for name, task in stage_tasks(run).items():
            if task.pod is None or (stage is not None and name != stage):
                continue
            lines = client.pod_log(run, task.pod).splitlines()
            for line in lines[printed.get(name, 0) :]:
                print(line if stage else f"{name} | {line}")
            printed[name] = max(printed.get(name, 0), len(lines))
        sys.stdout.flush()
        if not follow or run.state in FINISHED_STATES:
            break
        time.sleep(POLL_INTERVAL)
    if not any(printed.values()):
        which = f"of stage {stage} " if stage else ""
        raise UserError(f"run {run_id}: no log {which}is available; the stage has not started, or its pod was deleted")


def failure_message(run: Run) -> str:
    """Return one line about a run that did not succeed: its state and the error of the failed stage."""
    failed = [task for task in stage_tasks(run).values() if task.state == "FAILED"]
    error = next((f"stage {task.name}: {task.error or 'failed'}" for task in failed), run.error or "no reason given")
    return f"run {run.id} {run.state.lower()}: {error}"


def stage_tasks(run: Run) -> dict[str, Task]:
    """Return name -> task, for stages that have started. In a sweep the name has the run behind the stage."""
    names = {stage.name for stage in STAGES}
    return {task.name: task for task in run.tasks if task.name.partition(" ")[0] in names}


def _expected(run: Run) -> list[str]:
    """Return the stages that a run starts; [] for a sweep."""
    return [stage.name for stage in STAGES if key_parameter(stage) in run.arguments]


class _RunView:
    """Renders a run, and remembers what it has printed."""

    def __init__(self, client: KfpClient) -> None:
        self._client = client
        self._states: dict[str, str] = {}
        self._printed_lines: dict[str, int] = {}
        self._metrics: dict[str, str] = {}

    def print_changes(self, run: Run) -> None:
        """Print plain lines: state changes, new log lines, metrics."""
        for name, task in stage_tasks(run).items():
            # The log is read while the task runs, and once more after it has finished.
            if task.state == "RUNNING" or self._states.get(name) == "RUNNING":
                for line in self._log(run, task)[self._printed_lines.get(name, 0) :]:
                    print(f"{name} | {line}")
                    self._printed_lines[name] = self._printed_lines.get(name, 0) + 1
            if self._states.get(name) != task.state:
                self._states[name] = task.state
                metrics = self._format_metrics(run, task)
                print(f"{name}: {task.state.lower()}" + (f", {metrics}" if metrics else ""), flush=True)

    def table(self, run: Run) -> Group:
        """Return a table of the stages, followed by the last log lines of the running stage."""
        tasks = stage_tasks(run)
        table = Table(title=Text(f"{run.name}: {run.state.lower()}"), title_justify="left", box=None)
        for title in ("stage", "state", "metrics"):
            table.add_column(title)
        log: list[str] = []
        for name in dict.fromkeys((*_expected(run), *tasks)):
            task = tasks.get(name)
            state = task.state if task else "PENDING"
            metrics = self._format_metrics(run, task) if task else ""
            table.add_row(name, Text(state.lower(), STYLES.get(state, "dim")), Text(metrics))
            if task and state == "RUNNING":
                log = self._log(run, task)[-LOG_LINES:]
        return Group(table, Text("\n".join(log), "dim"))

    def _log(self, run: Run, task: Task) -> list[str]:
        return self._client.pod_log(run, task.pod).splitlines() if task.pod else []

    def _format_metrics(self, run: Run, task: Task) -> str:
        """Return the metrics in the manifest of a succeeded stage, if S3 is readable from this machine."""
        if task.state != "SUCCEEDED" or task.name not in _expected(run):
            return ""
        if task.name not in self._metrics:
            stage = next(stage for stage in STAGES if stage.name == task.name)
            arguments = run.arguments
            uri = s3.artifact_uri(
                str(arguments.get("artifact_root")), task.name, str(arguments.get(key_parameter(stage)))
            )
            try:
                manifest = s3.read_manifest(uri) or {}
            except (UserError, InternalError) as error:
                manifest = {"facts": {"metrics": {"not readable": str(error)}}}
            metrics = manifest.get("facts", {}).get("metrics", {})
            text = ", ".join(
                f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in metrics.items()
            )
            self._metrics[task.name] = printable_lines(text)
        return self._metrics[task.name]
