"""Rendering of a plan: on a terminal, and as Markdown for pull requests."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from components.markdown import escape_markdown
from pipeline.dvc import Change
from pipeline.retraining.plan import Plan, StagePlan
from trm.utils.output import printable_lines

LOCAL = {"unchanged": "unchanged", "restore": "from cache", "pull": "after dvc pull", "run": "runs"}
CLUSTER = {"exists": "in S3", "run": "runs"}
MAX_REASONS = 3
"""Reasons that are shown per stage; --json contains all."""
MARKER = "<!-- trm: plan -->"
"""Identifies the plan's comment on a pull request."""


def show(plan: Plan, console: Console) -> None:
    """Print the plan, in 80 columns or more."""
    console.print(Text(_headline(plan), "bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("stage", "dvc repro", "cluster", "reasons"):
        table.add_column(title, header_style="dim", no_wrap=title != "reasons")
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            Text(LOCAL[stage.local], "yellow" if stage.local == "run" else "green"),
            Text(CLUSTER[stage.cluster], "yellow" if stage.cluster == "run" else "green"),
            Text(format_reasons(stage)),
        )
    console.print(Padding(table, (1, 2), expand=False))
    if any(stage.runs for stage in plan.stages):
        console.print(Padding(_durations(plan), (0, 2, 1, 2), expand=False))
    for line in _notes(plan):
        console.print(Text(line, "dim"))


def markdown(plan: Plan) -> str:
    """Return the plan as Markdown, with the marker of its comment."""
    lines = [
        MARKER,
        f"### {_headline(plan)}",
        "",
        "| stage | dvc repro | cluster | reasons | estimate |",
        "|---|---|---|---|---|",
    ]
    for stage in plan.stages:
        cells = (stage.stage, LOCAL[stage.local], CLUSTER[stage.cluster], format_reasons(stage), _estimate(stage))
        lines.append(f"| {' | '.join(escape_markdown(cell) for cell in cells)} |")
    lines += ["", _total(plan), "", *(f"<sub>{escape_markdown(note)}</sub>  " for note in _notes(plan))]
    locations = [(stage.stage, stage.locations) for stage in plan.stages if stage.locations]
    if locations:
        lines += ["", "<details><summary>Existing results</summary>", ""]
        lines += [f"- {name}: {', '.join(f'`{place}`' for place in places)}" for name, places in locations]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def format_reasons(stage: StagePlan) -> str:
    """Return why a stage runs, in one line."""
    reasons = [_format_change(change) for change in stage.reasons]
    more = [f"{len(reasons) - MAX_REASONS} more"] if len(reasons) > MAX_REASONS else []
    return ", ".join(reasons[:MAX_REASONS] + more)


def format_duration(seconds: float | None) -> str:
    """Return a duration in s, min or h; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _headline(plan: Plan) -> str:
    if not plan.local and not plan.cluster:
        return "Nothing runs: all results exist."
    local, cluster = (_names(stages, plan) for stages in (plan.local, plan.cluster))
    if local == cluster:
        return f"Locally and on the cluster: {local}."
    return f"dvc repro: {local}; on the cluster: {cluster}."


def _names(stages: Sequence[str], plan: Plan) -> str:
    if len(stages) == len(plan.stages):
        return "all stages run"
    return f"{' and '.join(stages)} {'runs' if len(stages) == 1 else 'run'}" if stages else "nothing runs"


def _format_change(change: Change) -> str:
    if change.kind in ("param", "version"):
        return f"{change.name} {_format_value(change.old)} → {_format_value(change.new)}"
    return {
        "module": f"{change.name} changed",
        "file": f"{change.name} changed",
        "input": f"new {change.name}",
        "unrecorded": f"no result in {change.new}",
    }[change.kind]


def _format_value(value: object) -> str:
    return "absent" if value is None else printable_lines(str(value))


def _durations(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for stage in plan.stages:
        if stage.runs:
            table.add_row(stage.stage, format_duration(stage.seconds), Text(_reference(stage), "dim"))
    table.add_row("total", Text(format_duration(plan.seconds), "bold"), Text(_gpu_hours(plan)))
    return table


def _reference(stage: StagePlan) -> str:
    """Return the record that an estimate is based on, in words."""
    record = stage.estimated_from
    if record is None:
        return "no similar run in runs.tsv"
    name = "the same run" if record.key == stage.key else f"run {record.key[:12]}"
    return f"from {name} on {record.hardware}"


def _estimate(stage: StagePlan) -> str:
    if not stage.runs:
        return ""
    return f"{format_duration(stage.seconds)} ({_reference(stage)})"


def _gpu_hours(plan: Plan) -> str:
    text = "GPU hours unknown" if plan.gpu_hours is None else f"{plan.gpu_hours:.3g} GPU hours"
    if plan.max_gpu_hours is None:
        return text
    return f"{text} (limit {plan.max_gpu_hours:g}): approval {'required' if plan.needs_approval else 'not required'}"


def _total(plan: Plan) -> str:
    if not any(stage.runs for stage in plan.stages):
        return ""
    return f"**Total: {format_duration(plan.seconds)}, {_gpu_hours(plan)}.**"


def _notes(plan: Plan) -> list[str]:
    notes = []
    if any(stage.local == "pull" for stage in plan.stages):
        notes.append("Unchanged outputs are missing on this disk: run `dvc pull` first, or dvc repro computes them.")
    if plan.online:
        notes.append("Artifacts in S3: queried.")
    else:
        notes.append("Artifacts in S3: as recorded in runs.tsv; --online queries S3.")
    return notes
