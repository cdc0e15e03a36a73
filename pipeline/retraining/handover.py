"""Result files that a job without write access hands over to the job that publishes them.

The first job runs the code of the run's commit, the second one runs nothing of it: it reads these files and checks that
they are what `collect` and `compare` write.
"""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from pipeline.dvc import LOCK
from pipeline.results import METRICS_FILE, read_collected
from pipeline.runs import FILE as RUNS_FILE
from pipeline.runs import OUTPUTS, read_runs
from trm.stages.records import REQUIRED_STAGES, STAGES
from trm.utils.errors import DataError

REPORT = OUTPUTS / "comparison.md"
MAX_BYTES = {LOCK: 1 << 20, METRICS_FILE: 1 << 18, RUNS_FILE: 16 << 20, REPORT: 60_000}
"""File -> maximum size. GitHub accepts 65,536 characters as the text of a pull request."""
OPTIONAL = {REPORT, REPORT.with_suffix(".html")}


def check_handover(folder: Path, key: str) -> None:
    """Raise `DataError` unless `folder` holds the result files of the result `key`, and nothing else."""
    allowed = {folder / file for file in (*MAX_BYTES, *OPTIONAL)}
    folders = {parent for file in allowed for parent in file.parents}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path not in (folders if path.is_dir() else allowed):
            raise _invalid(path, "not a result file")
    for file, limit in MAX_BYTES.items():
        path = folder / file
        if not path.is_file():
            if file in OPTIONAL:
                continue
            raise _invalid(path, "missing")
        if path.stat().st_size > limit:
            raise _invalid(path, f"larger than {limit} bytes")
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise _invalid(path, "not UTF-8") from None
    collected, _ = read_collected(folder / METRICS_FILE)
    if collected != key:
        raise _invalid(folder / METRICS_FILE, f"not the result {key}")
    read_runs(folder / RUNS_FILE)
    _check_lock(folder / LOCK)


def _check_lock(path: Path) -> None:
    """Raise `DataError` unless the outputs in dvc.lock are those of the stages: `dvc pull` writes to their paths."""
    try:
        lock: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        entries = {name: entry["outs"] for name, entry in lock["stages"].items()}
        found = {
            (name.partition("@")[0], out["path"], re.fullmatch(r"[0-9a-f]{32}(\.dir)?", out["md5"]) is not None)
            for name, outs in entries.items()
            for out in outs
        }
    except (YAMLError, KeyError, TypeError, AttributeError):
        raise _invalid(path, "not a lock file of DVC") from None
    required, known = (
        {(stage.name, (OUTPUTS / stage.output).as_posix(), True) for stage in stages}
        for stages in (REQUIRED_STAGES, STAGES)
    )
    if not required <= found <= known:
        raise _invalid(path, "its outputs are not those of dvc.yaml")


def _invalid(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: {problem}; collect the run again")
