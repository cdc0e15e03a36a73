"""A plan for people: on a terminal, and as the Markdown of a pull request."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.dvc import Change
from pipeline.retraining.plan import Plan, StagePlan
from trm.stages import STAGES

HERE = {"unchanged": "unchanged", "restore": "from cache", "pull": "after dvc pull", "run": "runs"}
CLUSTER = {"there": "in S3", "run": "runs"}
SHOWN = 3
"""So many reasons are named; --json has all."""
MARKER = "<!-- trm: plan -->"
"""By which the comment of a pull request is found again."""


def show(plan: Plan, console: Console) -> None:
    """Print the plan; 80 columns are enough."""
    console.print(Text(_headline(plan), "bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("stage", "dvc repro", "cluster", "because"):
        table.add_column(title, header_style="dim", no_wrap=title != "because")
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            Text(HERE[stage.here], "yellow" if stage.here == "run" else "green"),
            Text(CLUSTER[stage.cluster], "yellow" if stage.cluster == "run" else "green"),
            Text(because(stage)),
        )
    console.print(Padding(table, (1, 2), expand=False))
    if any(stage.runs for stage in plan.stages):
        console.print(Padding(_times(plan), (0, 2, 1, 2), expand=False))
    for line in _notes(plan):
        console.print(Text(line, "dim"))


def markdown(plan: Plan) -> str:
    """The plan as Markdown, with the marker by which its comment is found again."""
    lines = [
        MARKER,
        f"### {_headline(plan)}",
        "",
        "| stage | dvc repro | cluster | because | expected |",
        "|---|---|---|---|---|",
    ]
    for stage in plan.stages:
        cells = (stage.stage, HERE[stage.here], CLUSTER[stage.cluster], because(stage), _expected(stage))
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", _total(plan), "", *(f"<sub>{_cell(note)}</sub>  " for note in _notes(plan))]
    lies = [(stage.stage, stage.lies) for stage in plan.stages if stage.lies]
    if lies:
        lines += ["", "<details><summary>Where results lie already</summary>", ""]
        lines += [f"- {name}: {', '.join(f'`{place}`' for place in places)}" for name, places in lies]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def because(stage: StagePlan) -> str:
    """Why a stage runs, in one line."""
    words = [_reason(change) for change in stage.because]
    more = [f"{len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return ", ".join(words[:SHOWN] + more)


def duration(seconds: float | None) -> str:
    """Seconds for people; unknown where None."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _headline(plan: Plan) -> str:
    if not plan.here and not plan.cluster:
        return "Nothing runs: every result is there."
    if plan.here == plan.cluster:
        return f"Here and on the cluster alike: {_names(plan.here)}."
    return f"dvc repro: {_names(plan.here)}; on the cluster: {_names(plan.cluster)}."


def _names(stages: Sequence[str]) -> str:
    if len(stages) == len(STAGES):
        return "all stages run"
    return f"{' and '.join(stages)} {'runs' if len(stages) == 1 else 'run'}" if stages else "nothing runs"


def _reason(change: Change) -> str:
    if change.what in ("param", "version"):
        return f"{change.name} {_value(change.was)} → {_value(change.now)}"
    return {
        "module": f"{change.name} changed",
        "file": f"{change.name} changed",
        "input": f"new {change.name}",
        "new": f"{change.now} holds no such result",
    }[change.what]


def _value(value: object) -> str:
    return "absent" if value is None else str(value)


def _times(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for stage in plan.stages:
        if stage.runs:
            table.add_row(stage.stage, duration(stage.seconds), Text(_like(stage), "dim"))
    table.add_row("in all", Text(duration(plan.seconds), "bold"), Text(_gpus(plan)))
    return table


def _like(stage: StagePlan) -> str:
    if stage.like is None:
        return "nothing like it is in runs.tsv"
    same = "it took" if stage.like.key == stage.key else f"as {stage.like.key[:12]} took"
    return f"{same} on {stage.like.hardware}"


def _expected(stage: StagePlan) -> str:
    if not stage.runs:
        return ""
    return f"{duration(stage.seconds)} ({_like(stage)})"


def _gpus(plan: Plan) -> str:
    said = "GPU hours unknown" if plan.gpu_hours is None else f"{plan.gpu_hours:.3g} GPU hours"
    if plan.max_gpu_hours is None:
        return said
    verdict = "waits for an approval" if plan.needs_approval else "goes on by itself"
    return f"{said} of at most {plan.max_gpu_hours:g}: {verdict}"


def _total(plan: Plan) -> str:
    if not any(stage.runs for stage in plan.stages):
        return ""
    return f"**In all: {duration(plan.seconds)}, {_gpus(plan)}.**"


def _notes(plan: Plan) -> list[str]:
    notes = []
    if any(stage.here == "pull" for stage in plan.stages):
        notes.append("Unchanged outputs are not on this disk: `dvc pull` first, or dvc repro makes them again.")
    if plan.online:
        notes.append("S3 was asked for what lies there.")
    else:
        notes.append("Offline: what lies in S3 is what runs.tsv records; --online asks.")
    return notes


def _cell(text: str) -> str:
    """Text inside a Markdown table."""
    for character in "\\|<>*_`":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
