"""The stages of the pipeline, one record each.

The command line is built from these records; `dvc.yaml` and the Kubeflow components are compared with them by tests.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: a function of sections of `params.yaml` and input folders that writes one folder."""

    name: str
    sections: tuple[str, ...]
    """Sections of `params.yaml` passed to the function."""
    inputs: tuple[str, ...]
    """Outputs of other stages passed to the function."""
    output: str
    """The folder it writes."""
    run: str
    """`module:function`, called with its sections and inputs by name, `out` (an empty folder) and `key`."""
    help: str
    """One line for `trm --help`."""

    @property
    def module(self) -> str:
        """The module of the function."""
        return self.run.partition(":")[0]

    def function(self) -> Callable[..., dict[str, Any]]:
        """Import and return the function."""
        module, _, name = self.run.partition(":")
        return getattr(importlib.import_module(module), name)


STAGES = (
    Stage(
        name="fetch",
        sections=("data",),
        inputs=(),
        output="raw",
        run="trm.datasets.fetch:fetch",
        help="Download, copy or generate the raw puzzles.",
    ),
    Stage(
        name="augment",
        sections=("data", "augment"),
        inputs=("raw",),
        output="dataset",
        run="trm.datasets.augment:augment",
        help="Check, split and augment the puzzles; write Parquet.",
    ),
    Stage(
        name="train",
        sections=("model", "train"),
        inputs=("dataset",),
        output="model",
        run="trm.training.trainer:train",
        help="Train a model; interrupted runs resume.",
    ),
    Stage(
        name="evaluate",
        sections=("evaluate",),
        inputs=("dataset", "model"),
        output="evaluation",
        run="trm.evaluation.evaluate:evaluate",
        help="Evaluate the EMA weights on the test puzzles, with voting.",
    ),
    Stage(
        name="report",
        sections=("report",),
        inputs=("dataset", "model", "evaluation"),
        output="report",
        run="trm.reporting.html.page:report",
        help="Write an HTML report: settings, curves, metrics and example puzzles.",
    ),
)


def producer(output: str) -> Stage:
    """The stage that writes `output`."""
    return next(stage for stage in STAGES if stage.output == output)
