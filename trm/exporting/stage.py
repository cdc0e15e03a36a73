"""Stage `export`. The module imports nothing that only the extra `export` installs."""

from pathlib import Path
from typing import Any

from trm.config.evaluation import ExportParams
from trm.utils.extras import packages_of_extra


def export(*, export: ExportParams, dataset: Path, model: Path, out: Path, key: str) -> dict[str, Any]:
    """Write the exported files of the model to `out`; returns the facts of the manifest.

    Raises `UserError` without the packages of the extra `export`, and as `trm.exporting.export.write_export`.
    """
    del key
    with packages_of_extra("export", "stage export"):
        from trm.exporting.export import write_export

    return write_export(model, dataset, out, export).facts()
