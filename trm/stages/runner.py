"""The stages, each one record: the command line, `dvc.yaml` and the cluster's components all say the same.

A stage is a function of some sections of `params.yaml` and some folders, and writes one folder. Its content key names
the request: it is known before anything runs, and names the state of an unfinished run too.
"""

import ast
import hashlib
import importlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm.config.params import Params
    from trm.config.base import Section
    from trm.config.tracking import TrackingParams

PACKAGE = Path(__file__).parent
# These cannot change a result: params.yaml is complete, bytes that travel are checked, and the rest calls the stages.
NOT_DEPS = (
    *("trm", "trm.config", "trm.section", "trm.cluster", "trm.tracking", "trm.stages", "trm.cli", "trm.cli_ask"),
    *("trm.artifacts", "trm.s3", "trm.storage.s3_client", "trm.s3_threads"),
)
FINDS_KINDS = "trm/data/protocol.py"
"""A stage that imports this file uses the module of a kind of data too."""
LIBRARIES = ("torch", "numpy", "pyarrow")
TIMING = "timing.json"
"""Beside an artifact in S3, and as `<folder>.timing.json` beside a folder: wall times and host, no part of it."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    name: str
    sections: tuple[str, ...]
    """Sections of `params.yaml` that it reads."""
    inputs: tuple[str, ...]
    """Outputs of other stages that it reads."""
    output: str
    """The folder that it writes."""
    run: str
    """`module:function`, called with its sections and inputs by name, `out` (an empty folder) and `key`."""
    help: str
    duration_sections: tuple[str, ...] = ()
    """Sections whose settings affect the duration, those of earlier stages included; empty: `sections`. `python -m
    pipeline plan` estimates the duration from recorded results with equal settings in these sections."""
    duration_invariant: tuple[str, ...] = ()
    """Settings (`section.key`) of the stage's own sections that do not affect the duration of one unit of work."""
    work: Callable[[Mapping[str, Any]], int] = lambda sections: 1
    """Returns the amount of work for the sections of an experiment (as JSON values): the duration is proportional."""

    @property
    def module(self) -> str:
        """The module of its function."""
        return self.run.partition(":")[0]

    def function(self) -> Callable[..., dict[str, Any]]:
        """Import and return its function."""
        module, _, name = self.run.partition(":")
        return getattr(importlib.import_module(module), name)


STAGES = (
    Stage(
        "fetch",
        ("data",),
        (),
        "raw",
        "trm.datasets.fetch:fetch",
        "Generate, copy or download the raw puzzles.",
        duration_sections=("data",),
    ),
    Stage(
        "augment",
        ("data", "augment"),
        ("raw",),
        "dataset",
        "trm.datasets.augment:augment",
        "Validate, split and augment the puzzles, and store them as Parquet.",
        duration_sections=("data", "augment"),
        duration_invariant=("augment.num_aug", "augment.seed"),
        work=lambda sections: 1 + sections["augment"]["num_aug"],
    ),
    Stage(
        "train",
        ("model", "train"),
        ("dataset",),
        "model",
        "trm.training.trainer:train",
        "Train the model. Interrupted runs resume.",
        duration_sections=("data", "augment", "model", "train"),
        duration_invariant=(
            *("train.epochs", "train.lr", "train.lr_min_ratio", "train.lr_warmup_steps", "train.beta1", "train.beta2"),
            *("train.weight_decay", "train.ema_rate", "train.seed", "train.puzzle_emb_lr"),
            *("train.puzzle_emb_weight_decay", "train.eval_interval", "train.log_interval"),
            "train.checkpoint_interval",
        ),
        work=lambda sections: sections["train"]["epochs"],
    ),
    Stage(
        "evaluate",
        ("evaluate",),
        ("dataset", "model"),
        "evaluation",
        "trm.evaluation.evaluate:evaluate",
        "Evaluate the EMA weights on the test puzzles, with voting.",
        duration_sections=("data", "augment", "model", "evaluate"),
        duration_invariant=tuple(
            f"evaluate.{name}" for name in ("steps", "votes", "rollouts", "noise", "pass_at_k", "seed")
        ),
        work=lambda sections: math.prod(sections["evaluate"][name] for name in ("steps", "votes", "rollouts")),
    ),
    Stage(
        "report",
        ("report",),
        ("dataset", "model", "evaluation"),
        "report",
        "trm.reporting.html.page:report",
        "Write an HTML page with settings, training curves, metrics and example puzzles.",
        duration_sections=("data", "augment", "model", "evaluate", "report"),
        duration_invariant=("report.published", "report.seed"),
    ),
)


def producer(output: str) -> Stage:
    """The stage that writes `output`."""
    return next(stage for stage in STAGES if stage.output == output)


def run_stage(
    stage: Stage,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    out: str,
    tracking: "TrackingParams | None" = None,
) -> None:
    """Run `stage` on the folders `inputs` and publish its output at `out`, its times beside it.

    Folders are paths, or `s3://<root>/<stage>/<key>` URIs; `out` may also be a bare `s3://<root>`. What lies in S3
    under the content key already is not made again, and its inputs are not even brought. `tracking` says what Weights &
    Biases is told; None: nothing.
    """
    from trm.storage import artifact_cache as mirror, s3
    from trm.storage.artifacts import read_manifest
    from trm.utils.errors import UserError
    from trm.tracking.client import run_name, tracked

    leads = os.environ.get("RANK", "0") == "0"
    manifests = {name: _manifest_at(inputs[name], producer(name).name) for name in stage.inputs}
    kind = sections["data"].kind if "data" in sections else manifests["dataset"]["params"]["data"]["name"]
    request = key_request(stage, sections, kind, {name: manifest["key"] for name, manifest in manifests.items()})
    key = digest_of(request)
    if not s3.is_uri(out) and re.match("s3:/", out, re.IGNORECASE):
        raise UserError(f"{out}: not a path, nor an address; write it as s3://bucket/folder")
    if not leads:
        # One of several processes that torchrun started: it helps, and the leader publishes.
        with TemporaryDirectory() as scratch:
            _call(stage, sections, _folders(stage, inputs), Path(scratch), key)
        return

    def run_here(folder: Path) -> None:
        with tracked(tracking, stage.name, manifests, request, key) as tell:
            brought = _run_here(stage, sections, inputs, request, folder, run_name(tracking, stage.name, key))
            tell(**brought, out=folder)

    if not s3.is_uri(out):
        run_here(Path(out))
        return
    uri = mirror.output_uri(out, stage.name, key)
    if s3.read_manifest(uri) is not None:
        print(f"{uri} is there already: nothing to do", file=sys.stderr)
        return
    folder = mirror.folder_of(uri)
    with mirror.locked(folder):
        if not is_whole(folder, stage, key):
            run_here(folder)
    if s3.publish(folder, uri) == read_manifest(folder) and timing_file(folder).is_file():
        s3.put_json(f"{uri}/{TIMING}", json.loads(timing_file(folder).read_text(encoding="utf-8")))
    print(f"published {uri}", file=sys.stderr)


def is_whole(folder: Path, stage: Stage, key: str) -> bool:
    """Whether a result lies here already, of which only the upload failed."""
    from trm.storage.artifacts import verified_manifest
    from trm.utils.errors import DataError

    try:
        return verified_manifest(folder, stage.name)["key"] == key
    except DataError:
        return False


def _manifest_at(location: str, stage: str) -> dict[str, Any]:
    """The manifest of an input, before anything of it is brought here."""
    from trm.storage import artifact_cache as mirror, s3
    from trm.storage.artifacts import read_manifest
    from trm.utils.errors import DataError

    if not s3.is_uri(location):
        return read_manifest(Path(location), stage)
    uri = mirror.artifact_uri(location)
    manifest = s3.read_manifest(uri)
    if manifest is None:
        raise DataError(f"{uri}: there is no such artifact; run `trm {stage}` with this root first")
    if manifest["stage"] != stage:
        raise DataError(f"{uri}: was written by stage {manifest['stage']}; name what `trm {stage}` wrote")
    return manifest


def _run_here(
    stage: Stage,
    sections: Mapping[str, Any],
    inputs: Mapping[str, str],
    request: Mapping[str, Any],
    out: Path,
    wandb: str | None,
) -> dict[str, Path]:
    """Returns the inputs' folders on this disk. `wandb` names the run that is told of it."""
    from trm.storage.artifacts import staged, write_json, write_manifest

    folders, key = _folders(stage, inputs), digest_of(request)
    started, clock = datetime.now(UTC), time.monotonic()
    with staged(out) as staging:
        facts = _call(stage, sections, folders, staging, key)
        timing = {"stage": stage.name, "key": key, "started": started.isoformat(timespec="seconds")}
        timing |= {"seconds": round(time.monotonic() - clock, 3), **_machine(), **facts.pop("timing", {})}
        timing |= {"wandb": wandb} if wandb else {}
        write_manifest(staging, {**request, "key": key, "facts": facts})
    write_json(timing_file(out), timing)
    return folders


def _folders(stage: Stage, inputs: Mapping[str, str]) -> dict[str, Path]:
    """The inputs on this disk, every file's digest checked."""
    from trm.storage.artifacts import verified_manifest
    from trm.storage.artifact_cache import local_copy

    folders = {name: local_copy(inputs[name]) for name in stage.inputs}
    for name, folder in folders.items():
        verified_manifest(folder, producer(name).name)
    return folders


def _call(
    stage: Stage, sections: Mapping[str, Any], folders: Mapping[str, Path], out: Path, key: str
) -> dict[str, Any]:
    return stage.function()(**sections, **folders, out=out, key=key)


def timing_file(folder: Path) -> Path:
    """Where the times of the stage that wrote `folder` stand."""
    return folder.with_name(f"{folder.name}.{TIMING}")


def requests(params: "Params") -> dict[str, dict[str, Any]]:
    """The request of every stage of an experiment, from its params alone; each holds its content key too."""
    made: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        sections = {name: getattr(params, name) for name in stage.sections}
        inputs = {name: made[producer(name).name]["key"] for name in stage.inputs}
        request = key_request(stage, sections, params.data.name, inputs)
        made[stage.name] = {**request, "key": digest_of(request)}
    return made


def content_keys(params: "Params") -> dict[str, str]:
    """The content key of every stage of an experiment, from its params alone."""
    return {name: request["key"] for name, request in requests(params).items()}


def key_request(
    stage: Stage, sections: Mapping[str, "Section"], kind: str, input_keys: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that the result of `stage` depends on.

    `kind` is the kind of data, whose modules count; `input_keys` are the content keys of the stage's inputs.
    """
    from importlib.metadata import version

    from trm.datasets.registry import dataset_module

    request: dict[str, Any] = {
        "stage": stage.name,
        "params": {name: sections[name].model_dump(mode="json") for name in stage.sections},
        "inputs": dict(input_keys),
        "modules": _modules(stage, kind),
        # The CPU and the CUDA build of one release are one version.
        "versions": {name: version(name).partition("+")[0] for name in LIBRARIES},
    }
    if stage.name == "fetch":
        request["source"] = dataset_module(kind).source_digest(sections["data"])
    return request


def _modules(stage: Stage, kind: str) -> dict[str, str]:
    """The files that the result depends on: those that the stage imports, with its own kind of data and no other."""
    from trm.datasets.registry import KINDS

    modules = module_digests(stage.module)
    if FINDS_KINDS in modules:
        modules = modules | module_digests(f"{KINDS}.{kind}")
    return dict(sorted(modules.items()))


def dvc_deps(stage: Stage) -> list[str]:
    """The files and folders of the package that `dvc.yaml` lists for a stage: those of every kind of data, as that file
    does not know which one `params.yaml` names.
    """
    from trm.datasets.registry import KINDS, kinds

    modules, folder = set(module_digests(stage.module)), KINDS.replace(".", "/")
    if FINDS_KINDS in modules:
        modules.update(*(module_digests(f"{KINDS}.{kind}") for kind in kinds()))
    return sorted({folder if name.startswith(f"{folder}/") else name for name in modules})


def digest_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of the request's one JSON text, as hex digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def module_digests(module: str) -> dict[str, str]:
    """SHA-256 of every file of the package that `module` imports, itself included, keyed by `trm/...` path.

    What lies beside a module under its name (a template) belongs to it.
    """
    paths = {beside for path in _closure(module) for beside in path.parent.glob(f"{path.stem}.*") if beside.is_file()}
    return {
        f"trm/{path.relative_to(PACKAGE).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def _closure(module: str) -> set[Path]:
    seen: set[str] = set()
    paths: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in seen or path is None or name in NOT_DEPS:
            continue
        seen.add(name)
        paths.add(path)
        waiting += _imports(path)
    return paths


def _imports(path: Path) -> Iterator[str]:
    """The names of the package that a file imports, whether modules or things inside them, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(module: str) -> Path | None:
    """The source of a module of the package; None for anything else, and for a package's bare `__init__`."""
    head, *rest = module.split(".")
    path = PACKAGE.joinpath(*rest).with_suffix(".py")
    return path if head == "trm" and rest and path.is_file() else None


def _machine() -> dict[str, Any]:
    import os
    import platform

    return {"host": platform.node(), "machine": platform.machine(), "cores": os.cpu_count()}
