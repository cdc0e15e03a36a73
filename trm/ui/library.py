"""The models and datasets below the folders that are named at start."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from starlette.exceptions import HTTPException

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.data.parquet import Split, read_counts, read_meta, read_names, read_split
from trm.evaluation.eval_dataset import EvalDataset
from trm.serving.service import ServedModel
from trm.training.checkpoint import FILE, read_settings
from trm.utils.errors import DataError, UserError

MAX_DEPTH, MAX_FOLDERS = 6, 10_000
"""Levels below a named folder that are searched, and most folders visited in a search."""
MAX_OPEN = 4
"""Models in memory besides the default."""
META = "meta.json"
OpenModel = Callable[[str, Path], ServedModel]
"""Loads a model: (name, folder) -> model."""


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be chosen."""

    name: str
    """Its folder as the page shows it, or the name of the default."""
    meta: DatasetMeta | None
    params: ModelParams | None
    problem: str = ""
    """Why it cannot be read; then `meta` and `params` are None."""


class Library:
    """Finds models and datasets, and keeps some of the models in memory.

    Args:
        folders: The folders named at start. Nothing outside them is read, except the default model.
        default: Name and folder of the default model, which is loaded at once.
        open_model: Loads a model.

    Raises `UserError` for a folder that does not exist.
    """

    def __init__(self, folders: Sequence[Path], default: tuple[str, Path], open_model: OpenModel) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder}: is not a folder; give model folders, or folders that contain them")
        self._folders, self._roots = folders, [folder.resolve() for folder in folders]
        self._default, self._default_folder, self._open = default[0], default[1], open_model
        self._lock = threading.Lock()
        self._stamps = dict[str, int]()
        """When the file of each model in memory was written; the model used last is the last one."""
        self.opened = {self._default: open_model(*default)}
        """The models in memory, by name; the first one is the default."""

    def models(self) -> list[ModelEntry]:
        """The models, sorted by name; the default is the last one."""
        found = [(name, Path(name)) for name in self._found(FILE)]
        return [_entry(*each) for each in (*found, (self._default, self._default_folder))]

    def model(self, name: str) -> ServedModel:
        """The model of that name, which is loaded unless it is in memory. Of several, the one that was not used for the
        longest time is dropped. A model that has been written again is loaded again.

        Raises `HTTPException` 403 for a folder outside of the named ones, 404 for one without a model, and `DataError`
        for a damaged model.
        """
        with self._lock:
            if name != self._default:
                folder = self._folder(name, FILE)
                stamp = (folder / FILE).stat().st_mtime_ns
                if self._stamps.pop(name, None) != stamp:
                    self._drop(name)
                    self.opened[name] = self._open(name, folder)
                self._stamps[name] = stamp
                while len(self._stamps) > MAX_OPEN:
                    oldest = next(iter(self._stamps))
                    del self._stamps[oldest]
                    self._drop(oldest)
            return self.opened[name]

    def _drop(self, name: str) -> None:
        model = self.opened.pop(name, None)
        if model is not None:
            model.close()

    def datasets(self, meta: DatasetMeta) -> dict[str, int]:
        """The datasets whose test puzzles a model of `meta` can solve: name -> number of test groups."""
        counts = {}
        for name in self._found(META):
            try:
                if _matches(meta, read_meta(name)):
                    counts[name] = read_counts(name)["test"]["groups"]
            except (DataError, KeyError, TypeError):  # another file of that name
                continue
        return counts

    def dataset(self, name: str, meta: DatasetMeta, num_votes: int = 1, seed: int = 0) -> EvalDataset:
        """The test puzzles of a dataset, for a model of `meta`. Raises as `dataset_folder`."""
        folder = self.dataset_folder(name, meta)
        split, names = _read(folder, (folder / META).stat().st_mtime_ns)
        return EvalDataset(split, names, meta, num_votes, None, seed)

    def dataset_folder(self, name: str, meta: DatasetMeta) -> Path:
        """The folder of a dataset. Raises as `model`, and `UserError` if its puzzles are not those of the model."""
        folder = self._folder(name, META)
        if not _matches(meta, read_meta(folder)):
            raise UserError(f"{name}: has other puzzles than those of the model")
        return folder

    def _found(self, file: str) -> list[str]:
        """The folders that contain `file`, sorted."""
        found = {folder for root in self._folders for folder in _walk(root) if (folder / file).is_file()}
        names = {str(folder) for folder in found if self._is_inside((folder / file).resolve())}
        return sorted(f"./{name}" if name == self._default else name for name in names)

    def _folder(self, name: str, file: str) -> Path:
        """The folder of that name, all of whose files are inside of the named folders."""
        try:
            folder = Path(name).resolve()
            contents = [folder, *(folder.rglob("*") if self._is_inside(folder) else ())]
            allowed = all(self._is_inside(path.resolve()) for path in contents)
        except (OSError, ValueError, RuntimeError):  # too long, a null character, a loop of links
            allowed, folder = False, Path()
        if not allowed:
            raise HTTPException(
                403, f"{name}: is not inside the folders that were named at start, or has links out of them"
            )
        if not (folder / file).is_file():
            raise HTTPException(404, f"{name}: no {file} in this folder")
        return folder

    def _is_inside(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)


def _walk(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, without hidden ones and links."""
    for visited, (path, folders, _) in enumerate(os.walk(root)):
        folder = Path(path)
        depth = len(folder.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < MAX_DEPTH else []
        if visited >= MAX_FOLDERS:
            return
        yield folder


def _entry(name: str, folder: Path) -> ModelEntry:
    try:
        header = read_settings(folder)
    except (DataError, OSError) as error:
        return ModelEntry(name, None, None, str(error))
    return ModelEntry(name, header.meta, header.model)


def _matches(model: DatasetMeta, dataset: DatasetMeta) -> bool:
    """Whether a model of `model` can solve the puzzles. Identifiers of puzzles are those of one dataset only."""
    if model.puzzles_digest or dataset.puzzles_digest:
        return model == dataset
    return model.has_puzzles_of(dataset)


@lru_cache(maxsize=2)
def _read(folder: Path, stamp: int) -> tuple[Split, pa.ChunkedArray | None]:
    """The test split and the names of the identifiers, if it has any. stamp: changes with the dataset."""
    del stamp
    names = read_names(folder) if read_meta(folder).puzzles_digest else None
    return read_split(folder / "test"), names
