"""The report of a study: a table of its variations, and curves of loss and accuracy against steps and time."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from trm.config.params import Params
from trm.models.variants import VARIANTS
from trm.reporting.terminal.artifact_summary import study_score
from trm.reporting.training_log import read_log
from trm.storage.artifacts import read_manifest, timing_file, write_json
from trm.training.checkpoint import read_settings
from trm.training.cost import training_operations

NOTES = (
    "Scores in percent of the test puzzles: mean over seeds ± half the width of its 95 % interval (Student's t, at",
    "least that of the Wilson interval over the puzzles); for one seed, the 95 % interval over puzzles. Loss: first,",
    "last and lowest value in the training log. Operations: those of the matrix products of a training, in 10^12;",
    "operations and seconds until the first validation with 50, 70 and 90 % exact, - if a seed does not reach it.",
)
LEVELS = (0.5, 0.7, 0.9)
"""Validation accuracies whose cost is reported."""
SCORES = {"exact_accuracy": "exact", "cell_accuracy": "cell", "halt_accuracy": "halt"}


@dataclass(frozen=True)
class Result:
    """The results of one run."""

    recipe: str
    seed: int
    metrics: dict[str, Any]
    facts: dict[str, Any]
    """Facts of the training: device, parameters, steps."""
    timing: dict[str, Any]
    depth: int
    """Effective depth, in blocks."""
    log: dict[str, np.ndarray]
    """Columns of train.tsv."""
    validation: dict[str, np.ndarray]
    """Columns of validation.tsv; empty without a validation split."""
    operations: tuple[float, ...] = ()
    """Floating-point operations until each line of `validation`, then those of the whole training."""

    @classmethod
    def of(cls, recipe: str, seed: int, folder: Path, params: Params) -> "Result":
        """Read the results from the folder of the run."""
        model = folder / "model"
        facts, validation = read_manifest(model, "train")["facts"], read_log(model / "validation.tsv")
        meta, total = read_settings(model).meta, facts["steps"]
        steps = [*validation.get("step", ()), total]
        return cls(
            recipe,
            seed,
            json.loads((folder / "evaluation/metrics.json").read_text(encoding="utf-8")),
            facts,
            json.loads(timing_file(model).read_text(encoding="utf-8")),
            VARIANTS[params.model.arch].depth(params.model),
            read_log(model / "train.tsv"),
            validation,
            tuple(training_operations(params.model, params.train, meta, total, step / total) for step in steps),
        )

    def seconds(self, steps: np.ndarray) -> np.ndarray:
        """The training time after this number of steps, at the mean speed."""
        return steps / self.timing["steps_per_second"]

    def costs_to(self, level: float) -> tuple[float, float] | None:
        """Operations and seconds until the first validation with this exact accuracy; None if there is none."""
        reached = np.flatnonzero(np.asarray(self.validation.get("exact_accuracy", ())) >= level)
        if not len(reached):
            return None
        return self.operations[reached[0]], float(self.seconds(self.validation["step"][reached[0]]))


def write_report(title: str, results: Sequence[Result], failed: Mapping[str, str], folder: Path) -> None:
    """Write report.md, report.json, curves.png and curves.svg to `folder`."""
    rows = table(results)
    write_json(folder / "report.json", {"title": title, "recipes": rows, "failed": dict(failed)})
    figure = curves(results)
    figure.savefig(folder / "curves.png", dpi=120)
    figure.savefig(folder / "curves.svg", metadata={"Date": None})
    lines = [f"# {title}", "", *markdown(rows), ""]
    lines += [f"- {name} failed: {why}" for name, why in failed.items()] + ([""] if failed else [])
    lines += [*NOTES, ""]
    lines += ["![Loss and accuracy against steps and time](curves.png)", ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def table(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """The numbers of every variation, the best first: means over its seeds, scores with 95 % intervals."""
    return {recipe: _row(_runs(results, recipe)) for recipe in _ranked(results)}


def _row(runs: Sequence[Result]) -> dict[str, Any]:
    def mean(value: Callable[[Result], float]) -> float:
        return float(np.mean([value(run) for run in runs]))

    row: dict[str, Any] = {"seeds": len(runs)}
    for name in SCORES:
        values = [run.metrics[name] for run in runs]
        row[name] = mean(lambda run, name=name: run.metrics[name])
        puzzles = runs[0].metrics["puzzles"]
        row[f"{name}_95"] = over_seeds(values, puzzles) if len(runs) > 1 else runs[0].metrics["interval_95"][name]
    losses = [run.log["loss"] for run in runs]
    row |= {"loss_first": float(np.mean([loss[0] for loss in losses]))}
    row |= {"loss_last": float(np.mean([loss[-1] for loss in losses]))}
    row |= {"loss_lowest": float(np.mean([loss.min() for loss in losses]))}
    row |= {name: runs[0].facts[name] for name in ("parameters", "steps", "device")}
    row |= {"effective_depth": runs[0].depth}
    if runs[0].operations:
        row["operations"] = mean(lambda run: run.operations[-1])
    for level in LEVELS:
        costs = [cost for run in runs if (cost := run.costs_to(level)) is not None]
        means = np.mean(costs, axis=0).tolist() if len(costs) == len(runs) else (None, None)
        row[f"operations_to_{level:g}"], row[f"seconds_to_{level:g}"] = means
    return row | {name: mean(lambda run, name=name: run.timing[name]) for name in ("steps_per_second", "train_seconds")}


def over_seeds(values: Sequence[float], puzzles: int) -> list[float]:
    """The 95 % interval of the mean of the scores of two or more seeds, fractions of the same `puzzles`.

    Student's t over the seeds, at least as wide as the Wilson interval over the puzzles: the scores of a few seeds may
    be equal by chance, which does not make their mean certain.
    """
    mean, n = float(np.mean(values)), len(values)
    reach = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    reach = max(reach, wilson_reach(mean, puzzles))
    return [mean - reach, mean + reach]


def wilson_reach(share: float, n: int) -> float:
    """Half the width of the 95 % Wilson interval of a fraction of n puzzles; it is positive for 0 and 1, too."""
    z = float(stats.norm.ppf(0.975))
    return z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of the table in Markdown."""
    head = ["recipe", "seeds", "exact %", "cell %", "halt %", "loss first / last / lowest", "steps/s", "parameters"]
    head += ["depth", "training", "operations", "operations to 50 / 70 / 90 %", "seconds to 50 / 70 / 90 %"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for recipe, row in rows.items():
        cells = [recipe, str(row["seeds"]), *(study_score(row, name) for name in SCORES)]
        cells.append(" / ".join(f"{row[f'loss_{which}']:.3g}" for which in ("first", "last", "lowest")))
        cells += [f"{row['steps_per_second']:.1f}", f"{row['parameters']:,}", str(row["effective_depth"])]
        cells.append(f"{row['train_seconds']:.0f} s {row['device']}")
        cells.append(_tera(row.get("operations")))
        cells.append(" / ".join(_tera(row[f"operations_to_{level:g}"]) for level in LEVELS))
        seconds = (row[f"seconds_to_{level:g}"] for level in LEVELS)
        cells.append(" / ".join("-" if each is None else f"{each:.0f}" for each in seconds))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _tera(operations: float | None) -> str:
    return "-" if operations is None else f"{operations / 1e12:.3g}"


def curves(results: Sequence[Result]) -> Figure:
    """Loss against steps and against time, validation accuracy against operations and against time.

    A color for each variation, in the order of `table`, a line for each seed.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for number, recipe in enumerate(_ranked(results)):
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        for line, run in enumerate(_runs(results, recipe)):
            label = {"label": recipe} if line == 0 else {}
            axes[0, 0].plot(run.log["step"], run.log["loss"], linewidth=1.2, **style, **label)
            axes[0, 1].plot(run.seconds(run.log["step"]), run.log["loss"], linewidth=1.2, **style)
            if run.validation:
                exact, seconds = run.validation["exact_accuracy"], run.seconds(run.validation["step"])
                axes[1, 0].plot(np.array(run.operations[:-1]) / 1e12, exact, linewidth=1.2, **style)
                axes[1, 1].plot(seconds, exact, linewidth=1.2, **style)
    _label(axes)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _label(axes: "np.ndarray[Any, np.dtype[Any]]") -> None:
    time, operations = "training time (s)", "operations ($10^{12}$)"
    names = (("loss", "step"), ("loss", time)), (("exact", operations), ("exact", time))
    axis: Axes
    for row, line in zip(axes, names, strict=True):
        for axis, (y, x) in zip(row, line, strict=True):
            axis.set_xlabel(x)
            axis.set_ylabel({"loss": "training loss", "exact": "validation: exact accuracy"}[y])
            axis.grid(alpha=0.3)
            axis.set_yscale("log") if y == "loss" else axis.set_ylim(-0.02, 1.02)


def _ranked(results: Sequence[Result]) -> list[str]:
    """The variations, the highest mean of the exact accuracy first."""

    def score(recipe: str) -> float:
        return float(np.mean([run.metrics["exact_accuracy"] for run in _runs(results, recipe)]))

    return sorted(dict.fromkeys(each.recipe for each in results), key=score, reverse=True)


def _runs(results: Sequence[Result], recipe: str) -> list[Result]:
    return [each for each in results if each.recipe == recipe]
