"""The stages of the pipeline, one record each.

The command line is built from these records; `dvc.yaml` and the Kubeflow components are compared with them by tests.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm.config.params import Params


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
    """One line for `trm --help` and the Kubeflow component."""
    not_in_key: tuple[str, ...] = ()
    """Settings (`section.key`) that do not change the result; they are null in content keys and manifests."""
    duration_sections: tuple[str, ...] = ()
    """Sections whose settings affect the duration, including those of earlier stages; empty: `sections`. `python -m
    pipeline plan` estimates durations from recorded results with equal settings in these sections."""
    duration_invariant: tuple[str, ...] = ()
    """Settings (`section.key`) that do not affect the duration of a unit of work."""
    enabled_by: str = ""
    """Setting (`section.key`) that enables an optional stage: a list that is not empty. "": part of all experiments. No
    other stage has the output of an optional one as an input."""
    work: Callable[[Mapping[str, Any]], int] = lambda sections: 1
    """Returns the amount of work for the sections of an experiment (as JSON values): the duration is proportional."""

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
        help="Generate, copy or download the raw puzzles.",
        duration_sections=("data",),
    ),
    Stage(
        name="augment",
        sections=("data", "augment"),
        inputs=("raw",),
        output="dataset",
        run="trm.datasets.augment:augment",
        help="Validate, split and augment the puzzles, and store them as Parquet.",
        duration_sections=("data", "augment"),
        duration_invariant=("augment.num_aug", "augment.seed"),
        work=lambda sections: 1 + sections["augment"]["num_aug"],
    ),
    Stage(
        name="train",
        sections=("model", "train"),
        inputs=("dataset",),
        output="model",
        run="trm.training.trainer:train",
        help="Train the model. Interrupted runs resume.",
        not_in_key=("train.max_seconds", "train.max_stall_seconds"),
        duration_sections=("data", "augment", "model", "train"),
        duration_invariant=(
            *("train.epochs", "train.lr", "train.lr_min_ratio", "train.lr_warmup_steps", "train.optimizer"),
            *("train.ema_rate", "train.seed", "train.eval_interval", "train.log_interval", "train.checkpoint_interval"),
            *("train.max_seconds", "train.max_stall_seconds"),
        ),
        work=lambda sections: sections["train"]["epochs"],
    ),
    Stage(
        name="evaluate",
        sections=("evaluate",),
        inputs=("dataset", "model"),
        output="evaluation",
        run="trm.evaluation.evaluate:evaluate",
        help="Evaluate the EMA weights on the test puzzles, with voting.",
        duration_sections=("data", "augment", "model", "evaluate"),
        duration_invariant=tuple(
            f"evaluate.{name}"
            for name in (
                *("max_steps", "num_votes", "num_samples", "latent_noise_std"),
                *("min_confidence", "pass_at_k", "seed"),
            )
        ),
        work=lambda sections: math.prod(
            sections["evaluate"][name] for name in ("max_steps", "num_votes", "num_samples")
        ),
    ),
    Stage(
        name="report",
        sections=("report",),
        inputs=("dataset", "model", "evaluation"),
        output="report",
        run="trm.reporting.html.page:report",
        help="Write an HTML page with settings, training curves, metrics and example puzzles.",
        duration_sections=("data", "augment", "model", "evaluate", "report"),
        duration_invariant=("report.published", "report.seed"),
    ),
    Stage(
        name="export",
        sections=("export",),
        inputs=("dataset", "model"),
        output="exported",
        run="trm.exporting.stage:export",
        help="Write the model as ONNX files and as a program of torch.export.",
        enabled_by="export.weights",
        duration_sections=("data", "augment", "model", "export"),
    ),
)


REQUIRED_STAGES = tuple(stage for stage in STAGES if not stage.enabled_by)
"""The stages that every experiment has."""


def enabled_stages(params: "Params") -> tuple[Stage, ...]:
    """The stages of an experiment: all but the optional ones that it does not enable."""
    return tuple(stage for stage in STAGES if not stage.enabled_by or _setting(params, stage.enabled_by))


def _setting(params: "Params", name: str) -> Any:  # noqa: ANN401 - of several types
    section, key = name.split(".")
    return getattr(getattr(params, section), key)


def producer(output: str) -> Stage:
    """The stage that writes `output`."""
    return next(stage for stage in STAGES if stage.output == output)
