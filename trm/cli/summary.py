"""The last lines of a command: its result, where it lies, the time taken and the next command."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trm.cli.options import OUTPUTS, typed_location
from trm.stages.records import REQUIRED_STAGES, Stage

SCORES = {
    "exact_accuracy": "exact accuracy",
    "cell_accuracy": "cell accuracy",
    "halt_accuracy": "halt accuracy",
    "valid": "valid",
    "valid_voted": "valid after the vote",
    "coverage": "coverage",
    "answered_accuracy": "accuracy if answered",
}
"""Metric -> name in the table of `trm evaluate`; pass@k follows."""


def print_summary(stage: Stage, folder: Path, location: str, following: str | None = None) -> None:
    """Print the result of `stage` in the local `folder`, published at `location`, and the next command."""
    from trm.storage.artifacts import read_manifest, timing_file

    manifest = read_manifest(folder)
    for line in _LINES.get(stage.name, lambda *_: ())(folder, manifest):
        print(line)
    timing = timing_file(folder)
    seconds = json.loads(timing.read_text(encoding="utf-8"))["seconds"] if timing.is_file() else 0
    print_end(stage.name, location, seconds, following)


def print_end(command: str, output: object, seconds: float, following: str | None) -> None:
    """Print where the output of a command lies, the time taken, and the next command, if there is one."""
    from trm.utils.progress import duration

    print(f"{command}: {output} in {duration(seconds)}", flush=True)
    if following is not None:
        print(f"next: {following}", flush=True)


def command_line(*words: object) -> str:
    """The words of a command, quoted for the shell where necessary."""
    return shlex.join(map(str, words))


def inference_options(settings: Mapping[str, Any]) -> list[str]:
    """The options of the inference settings that differ from the defaults."""
    from trm.config.inference import DEFAULT_INFERENCE

    options = []
    for name, value in settings.items():
        if value != getattr(DEFAULT_INFERENCE, name):
            options += [f"--{name.replace('_', '-')}"] + ([] if isinstance(value, bool) else [str(value)])
    return options


def next_command(stage: Stage, params: str, folders: Mapping[str, str]) -> str | None:
    """The command of the next stage, with the folders of this one that are not the defaults; None after the last.

    None also where something else runs the stages: DVC, or a cluster (params as JSON).
    """
    is_last = stage not in REQUIRED_STAGES[:-1]
    if is_last or "DVC_STAGE" in os.environ or params.lstrip().startswith("{"):
        return None
    following = REQUIRED_STAGES[REQUIRED_STAGES.index(stage) + 1]
    options = ["--params", params] if params != "params.yaml" else []
    given = {name: folders[name] for name in following.inputs if name in folders}
    return command_line("trm", following.name, *options, *folder_options(given))


def folder_options(folders: Mapping[str, str]) -> list[str]:
    """The options of the folders that are not the defaults: input name -> location."""
    changed = {name: folder for name, folder in folders.items() if folder != str(OUTPUTS / name)}
    return [word for name, folder in changed.items() for word in (f"--{name}", typed_location(folder))]


def metrics_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """A table of the scores with their 95 % intervals, for the contents of metrics.json."""
    votes = metrics.get("num_votes", 1)
    rows = [(label, name) for name, label in SCORES.items()]
    rows += [(f"{name}, {votes} vote{'s' * (votes != 1)}", name) for name in metrics if name.startswith("pass@")]
    for label, name in rows:
        value = metrics.get(name)
        if value is None:
            continue
        low, high = metrics.get("interval_95", {}).get(name, (None, None))
        interval = "" if low is None else f"  [{100 * low:.1f}, {100 * high:.1f}]"
        yield f"  {label:22} {100 * value:5.1f} %{interval}"
    puzzles, tasks = metrics["puzzles"], metrics["tasks"]
    of_tasks = f" of {tasks:,} tasks" if tasks != puzzles else ""
    yield f"  {puzzles:,} test puzzles{of_tasks}; brackets hold 95 % intervals"
    if metrics.get("leaked_tasks"):
        yield f"  {metrics['leaked_tasks']} tasks are trained on under another name; see metrics.json"


def _fetch_lines(_folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    facts = manifest["facts"]
    counts = [f"{value:,} {name.replace('_', ' ')}" for name, value in facts.items() if isinstance(value, int)]
    if counts:
        yield f"  {', '.join(counts)}"


def _augment_lines(_folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    for split, counts in manifest["facts"]["splits"].items():
        yield f"  {split:11} " + ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _train_lines(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    from trm.reporting.training_log import read_log

    facts = manifest["facts"]
    log = read_log(folder / "validation.tsv")
    steps, best = facts["steps"], facts["best_step"]
    if log:
        row = list(log["step"]).index(best)
        exact, cell = (100 * float(log[name][row]) for name in ("exact_accuracy", "cell_accuracy"))
        scores = f"{exact:.1f} % exact, {cell:.1f} % of the cells"
        yield f"  validation: {scores}, at step {best:,} (kept) of {steps:,}"
    else:
        yield f"  {steps:,} steps; there are no validation puzzles, the last weights are kept"
    if skipped := facts.get("skipped_batches"):
        yield f"  {skipped:,} batches were skipped, their loss or gradient was not finite"


def _evaluate_lines(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    from trm.config.evaluation import EvaluateParams

    yield from metrics_lines(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    settings = EvaluateParams.model_validate(manifest["params"]["evaluate"])
    if settings.num_votes > 1 and settings.stops_puzzles:
        yield "  compare pass@K: the accuracies are of one vote, which stops if another answers"


def _report_lines(folder: Path, _manifest: Mapping[str, Any]) -> Iterator[str]:
    yield f"  open {folder / 'report.html'} in a browser"


def _export_lines(folder: Path, _manifest: Mapping[str, Any]) -> Iterator[str]:
    for each in json.loads((folder / "export.json").read_text(encoding="utf-8"))["parity"]:
        yield f"  {each['file']}: {each['bytes'] / 1000:,.0f} kB, same answers {each['same_answers']:.1%}"


_LINES = {
    "fetch": _fetch_lines,
    "augment": _augment_lines,
    "train": _train_lines,
    "evaluate": _evaluate_lines,
    "report": _report_lines,
    "export": _export_lines,
}
"""Stage -> the lines about its result."""
