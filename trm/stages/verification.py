"""`trm verify`: the digests of artifacts and training states, in a local folder or below an S3 URI."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm.stages.records import STAGES
from trm.storage import s3
from trm.storage.artifacts import MANIFEST, damages, intact_manifest
from trm.training.state_folder import StateFolder
from trm.utils.errors import DataError, UserError
from trm.utils.hints import run_all
from trm.utils.paths import is_s3_uri

STAGE_NAMES = {stage.name for stage in STAGES}
"""Names of the folders in a root that contain artifacts by their content keys."""


@dataclass(frozen=True)
class Verified:
    """An artifact or a state, and what is damaged in it."""

    location: str
    manifest: Mapping[str, Any] | None
    """None: it is damaged."""
    problems: tuple[str, ...]
    """Path, damage and remedy of each damaged file."""


def verify(location: str) -> Iterator[Verified]:
    """Verify every artifact and training state at or below `location`, a folder or an S3 URI.

    Raises `UserError` if there is none, and the errors of `trm.storage.s3` if the server cannot be reached.
    """
    found = _verify_s3(location.rstrip("/")) if is_s3_uri(location) else _verify_folder(Path(location))
    is_empty = True
    for each in found:
        is_empty = False
        yield each
    if is_empty:
        raise UserError(f"{location}: contains no artifact and no training state; give a folder or s3:// URI with one")


def _verify_s3(uri: str) -> Iterator[Verified]:
    for artifact in s3.artifacts_below(uri):
        try:
            manifest, problems = s3.verify(artifact)
        except DataError as error:
            manifest, problems = None, [str(error)]
        if problems or manifest is not None:  # a running training may have deleted a state
            yield Verified(artifact, manifest, tuple(problems))


def _verify_folder(root: Path) -> Iterator[Verified]:
    if not root.is_dir():
        raise UserError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}; give a folder or s3:// URI")
    siblings = StateFolder(root.parent)
    if root in siblings.states():
        yield from _verify_state(siblings, root)
        return
    for parent, folders, files in os.walk(root):
        folder, states = Path(parent), StateFolder(Path(parent))
        # Hidden folders are unfinished outputs.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MANIFEST in files or (_is_key(folder) and folder.absolute().parent.name in STAGE_NAMES):
            folders.clear()
            yield _verify_artifact(folder)
        elif found := states.states():
            folders.clear()
            for state in found:
                yield from _verify_state(states, state)
            for problem in states.damaged_logs():
                yield Verified(str(folder), None, (f"{problem}; nothing to do, the training replaces it",))


def _verify_artifact(folder: Path) -> Verified:
    try:
        manifest = intact_manifest(folder)
        problems = list(damages(folder, manifest["files"]))
        if _is_key(folder) and manifest.get("key") != folder.absolute().name:
            problems.append(f"{folder / MANIFEST}: is that of the artifact {manifest.get('key')}")
    except DataError as error:
        manifest, problems = None, [str(error)]
    return Verified(str(folder), manifest, tuple(f"{each}; delete {folder} and run `{run_all()}`" for each in problems))


def _is_key(folder: Path) -> bool:
    """Whether the name of the folder is a content key."""
    return re.fullmatch("[0-9a-f]{64}", folder.absolute().name) is not None


def _verify_state(states: StateFolder, state: Path) -> Iterator[Verified]:
    try:
        yield Verified(str(state), states.verify(state), ())
    except DataError as error:
        if not state.exists():  # a running training has deleted it
            return
        remedy = f"delete {states.path}, and the training starts again"
        if states.newest_step():
            remedy = "nothing to do, the training resumes from an undamaged state"
        yield Verified(str(state), None, (f"{error}; {remedy}",))
