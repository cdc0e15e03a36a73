"""`trm inspect`: the contents of every file and folder that `trm` writes."""

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, RenderableType

from trm.reporting.terminal import artifact_summary as summaries
from trm.reporting.terminal.artifact_summary import STUDY, lineage, note
from trm.reporting.terminal.dataset_summary import RAW_SUFFIXES, describe
from trm.reporting.terminal.evaluation_summary import evaluation
from trm.reporting.terminal.tables import facts
from trm.storage.artifacts import MANIFEST, TIMING, read_manifest, verified_manifest
from trm.utils.errors import DataError
from trm.utils.file_formats import TORCH, detect_format, read_head

FILES: dict[str, Callable[[Path], RenderableType]] = {
    MANIFEST: lambda path: lineage(read_manifest(path.parent)),
    "metrics.json": summaries.metrics,
    "sweep.json": summaries.sweep,
    "submission.json": summaries.submission,
    STUDY: lambda path: summaries.study(path.parent),
}
"""Name of a file -> its description."""
SUFFIXES: dict[str, Callable[[Path], RenderableType]] = {
    ".safetensors": summaries.checkpoint_or_state,
    ".yaml": summaries.params,
    ".yml": summaries.params,
    ".tsv": summaries.log,
    ".html": lambda path: note(f"{path}: an HTML report; open it in a browser"),
    ".gif": lambda path: note(f"{path}: an animation of `trm visualize`; open it in a browser"),
}
"""End of the name of a file -> its description."""
HIDDEN = {"train": ("model",), "evaluate": ("metrics",), "augment": ("splits",)}
"""Settings and facts of a manifest that another table shows."""


def inspect_artifact(path: Path, puzzles: int) -> None:
    """Print the contents of a file or folder, with the first `puzzles` puzzles of each split. Raises `DataError`."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give an output of trm, a params file or raw files")
    console = Console(highlight=False)
    for each in _file(path, puzzles) if path.is_file() else _folder(path, puzzles, console):
        console.print(each)


def _file(path: Path, puzzles: int) -> Iterator[RenderableType]:
    if path.name.endswith(TIMING):
        yield facts(f"{path}: time and machine of a stage", summaries.read_json(path).items())
    elif found := FILES.get(path.name) or SUFFIXES.get(path.suffix):
        yield found(path)
    elif path.suffix == ".parquet" or path.name == "meta.json":  # a part of a dataset or an evaluation
        yield note(f"{path}: a part of {path.parent}")
        yield from _folder(path.parent, puzzles, Console(highlight=False))
    elif path.suffix in RAW_SUFFIXES:
        yield describe(path, puzzles)
    elif (detect_format(read_head(path)) or ("",))[0] == TORCH:
        yield note(f"{path}: weights in the published format; convert them with `trm checkpoint import {path}`")
    else:
        raise DataError(f"{path}: not a file that trm writes or reads; give a folder of outputs, a params file or CSV")


def _folder(path: Path, puzzles: int, console: Console) -> Iterator[RenderableType]:
    manifest = verified_manifest(path) if (path / MANIFEST).is_file() else None
    if manifest is None:
        yield _without_manifest(path, puzzles)
        return
    stage = manifest["stage"]
    if stage == "state":
        yield summaries.checkpoint_or_state(path / "state.safetensors")
    elif stage == "train":
        yield summaries.model(path, manifest)
    elif stage == "evaluate":
        yield summaries.metrics(path)
        yield evaluation(path, manifest, puzzles, console)
    elif stage in ("fetch", "augment"):
        yield describe(path, puzzles)
    else:
        yield facts(f"{path}: {summaries.description_of(manifest)}", [])
        if stage == "sweep":
            yield summaries.sweep(path / "sweep.json")
    yield lineage(manifest, HIDDEN.get(stage, ()))


def _without_manifest(path: Path, puzzles: int) -> RenderableType:
    """A folder without a manifest: a folder of outputs or states, a study, a published checkpoint or raw files."""
    if (path / STUDY).is_file():
        return summaries.study(path)
    if (path / "all_config.yaml").is_file():
        return summaries.params(path / "all_config.yaml")
    if path.is_dir() and (found := summaries.outputs(path)):
        return found
    return describe(path, puzzles)
