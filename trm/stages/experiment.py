"""Experiments from Python: all stages of some params, or a single one.

The functions run the same stage records as DVC, the command line and Kubeflow, so results are equal and nothing is
computed twice.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm.config.params import Params
from trm.stages.content_keys import content_keys
from trm.stages.params import check_params, load_params
from trm.stages.records import Stage, enabled_stages, producer
from trm.stages.runner import is_complete, run_stage
from trm.utils.errors import UserError
from trm.utils.launch import world_size

if TYPE_CHECKING:
    from trm.config.dataset_meta import DatasetMeta
    from trm.models.act import TRM

Experiment = Params | Mapping[str, Any] | str | Path
"""Params, the contents of a params file, or its path."""
OUTPUTS = "outputs"


def run(
    params: Experiment = "params.yaml",
    folder: str | Path = OUTPUTS,
    after: Callable[[Stage, Path], None] | None = None,
) -> dict[str, Any]:
    """Run all stages of the params. A stage whose result in `folder` is up to date is skipped.

    after: called with each stage and the folder of its result. Returns the metrics of the test puzzles, those of
    `metrics.json`. Raises `UserError` for invalid params or in a worker of torchrun, `InternalError` if a stage fails.
    """
    if world_size() > 1:
        raise UserError("all stages run in a single process; start torchrun with `-m trm train` or `-m trm evaluate`")
    settings = _settings(params)
    keys, stages = content_keys(settings), enabled_stages(settings)
    for number, stage in enumerate(stages, 1):
        out, name = Path(folder) / stage.output, f"{stage.name} ({number} of {len(stages)})"
        if is_complete(out, stage, keys[stage.name]):
            print(f"{name}: skipped, {out} is up to date", file=sys.stderr, flush=True)
        else:
            print(f"{name}: runs", file=sys.stderr, flush=True)
            _run(stage, settings, {name: Path(folder) / name for name in stage.inputs}, out)
        if after is not None:
            after(stage, out)
    return _metrics(Path(folder) / "evaluation")


def train(
    params: Experiment = "params.yaml",
    dataset: str | Path = f"{OUTPUTS}/dataset",
    model: str | Path = f"{OUTPUTS}/model",
) -> tuple["TRM", "DatasetMeta"]:
    """Train on the folder `dataset`, the output of stage augment, and write the folder `model`.

    Returns the model with its EMA weights, as `load_checkpoint` does. Raises `UserError` for invalid params and
    `InternalError` if the loss is not finite.
    """
    from trm.training.checkpoint import load_checkpoint

    _run(producer("model"), _settings(params), {"dataset": dataset}, model)
    return load_checkpoint(model)


def evaluate(
    params: Experiment = "params.yaml",
    dataset: str | Path = f"{OUTPUTS}/dataset",
    model: str | Path = f"{OUTPUTS}/model",
    evaluation: str | Path = f"{OUTPUTS}/evaluation",
) -> dict[str, Any]:
    """Evaluate the folder `model` on the test puzzles of the folder `dataset`, and write the folder `evaluation`.

    Returns the metrics, those of `metrics.json`. Raises `UserError` for invalid params or a model of another dataset.
    """
    _run(producer("evaluation"), _settings(params), {"dataset": dataset, "model": model}, evaluation)
    return _metrics(Path(evaluation))


def _settings(params: Experiment) -> Params:
    if isinstance(params, Params):
        return params
    return check_params(params, "params") if isinstance(params, Mapping) else load_params(params)


def _run(stage: Stage, settings: Params, inputs: Mapping[str, str | Path], out: str | Path) -> None:
    sections = {name: getattr(settings, name) for name in stage.sections}
    run_stage(
        stage,
        sections,
        {name: str(folder) for name, folder in inputs.items()},
        str(out),
        settings.tracking,
        settings.data,
    )


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
