"""Content keys: the SHA-256 of everything a stage's result depends on, known before the stage runs.

A key covers the stage's settings, the keys of its inputs, the source files that its function imports and the versions
of the numerical libraries. It names the artifact in S3, the training state and the W&B run.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm.stages.records import Stage, enabled_stages, producer

if TYPE_CHECKING:
    from trm.config.base import Section
    from trm.config.params import Params

PACKAGE = Path(__file__).parents[1]
EXCLUDED = ("trm.config", "trm.storage", "trm.tracking", "trm.stages")
"""Packages that cannot change a result: params.yaml is complete, transferred bytes are verified, and the others only
run the stages."""
INCLUDED = ("trm.config.dataset_meta",)
"""Exceptions to `EXCLUDED`: meta.json is part of a dataset."""
REGISTRY = "trm/datasets/registry.py"
"""A stage that imports this file also depends on the dataset named in the settings."""
DRAWINGS = "trm/datasets/drawings.py"
"""A stage that imports this file also depends on the drawing of that dataset. Training does not."""
ONLINE = "trm/datasets/online.py"
"""A stage that imports this file, training, also depends on the augmentation of examples of that dataset."""
LIBRARIES = ("torch", "numpy", "pyarrow")


def requests(params: "Params") -> dict[str, dict[str, Any]]:
    """The request of every stage of an experiment with its content key, computed from the params alone."""
    made: dict[str, dict[str, Any]] = {}
    for stage in enabled_stages(params):
        sections = {name: getattr(params, name) for name in stage.sections}
        inputs = {name: made[producer(name).name]["key"] for name in stage.inputs}
        request = key_request(stage, sections, params.data.name, inputs)
        made[stage.name] = {**request, "key": digest_of(request)}
    return made


def content_keys(params: "Params") -> dict[str, str]:
    """Stage name -> content key, computed from the params alone."""
    return {name: request["key"] for name, request in requests(params).items()}


def key_request(
    stage: Stage, sections: Mapping[str, "Section"], dataset_name: str, input_keys: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that the result of `stage` depends on.

    `dataset_name` selects the dataset whose modules count; `input_keys` are the content keys of the stage's inputs.
    """
    params = {name: sections[name].model_dump(mode="json") for name in stage.sections}
    for section, name in (key.split(".") for key in stage.not_in_key):
        params[section][name] = None
    request: dict[str, Any] = {
        "stage": stage.name,
        "params": params,
        "inputs": dict(input_keys),
        "modules": _modules(stage, dataset_name),
        # The CPU and the CUDA build of a release count as one version.
        "versions": {name: version(name).partition("+")[0] for name in LIBRARIES},
    }
    if stage.name == "fetch":
        from trm.datasets.registry import dataset_module

        request["source"] = dataset_module(dataset_name).source_digest(sections["data"])
    return request


def digest_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a request, as hex digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _modules(stage: Stage, dataset_name: str) -> dict[str, str]:
    """Digests of the files that the stage imports, including those of the named dataset and of no other."""
    modules = module_digests(stage.module)
    for file, part in ((REGISTRY, "dataset"), (DRAWINGS, "drawing"), (ONLINE, "online")):
        if file in modules:
            modules = modules | module_digests(f"trm.datasets.{dataset_name}.{part}")
    return dict(sorted(modules.items()))


def dvc_deps(stage: Stage) -> list[str]:
    """The source folders and files of the package that `dvc.yaml` lists for a stage.

    Folders keep the list short. DVC therefore reruns a stage more often than its content key changes, never less.
    Training has the files of `trm/datasets` that it needs: it does not depend on the others.
    """
    from trm.datasets.registry import dataset_names

    modules = set(module_digests(stage.module))
    for file, part in ((REGISTRY, "dataset"), (ONLINE, "online")):
        if file in modules:
            modules.update(*(module_digests(f"trm.datasets.{name}.{part}") for name in dataset_names()))
    single = {name.replace(".", "/") + ".py" for name in INCLUDED}
    if REGISTRY not in modules:
        single |= {name for name in modules if name.startswith("trm/datasets/")}
    return sorted({name if name in single else "/".join(name.split("/")[:2]) for name in modules})


@cache
def module_digests(module: str) -> dict[str, str]:
    """SHA-256 of `module` and of every file of the package that it imports, keyed by `trm/...` path.

    Files next to a module with the same stem (templates, styles, scripts) belong to it.
    """
    paths = {other for path in _closure(module) for other in path.parent.glob(f"{path.stem}.*") if other.is_file()}
    return {
        f"trm/{path.relative_to(PACKAGE).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def _closure(module: str) -> set[Path]:
    seen: set[str] = set()
    paths: set[Path] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        path = _source_file(name)
        if name in seen or path is None or is_excluded(name):
            continue
        seen.add(name)
        paths.add(path)
        pending += _imports(path)
    return paths


def is_excluded(module: str) -> bool:
    """Whether content keys ignore this module."""
    return module not in INCLUDED and module.startswith(tuple(f"{package}." for package in EXCLUDED))


@cache
def _imports(path: Path) -> frozenset[str]:
    """The dotted names that a file imports at any depth: modules, and names inside modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _source_file(module: str) -> Path | None:
    """The source file of a module of the package; None for other packages and for `__init__` files."""
    head, *rest = module.split(".")
    path = PACKAGE.joinpath(*rest).with_suffix(".py")
    return path if head == "trm" and rest and path.is_file() else None
