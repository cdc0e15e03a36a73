"""The logs of a training in a model folder: train.tsv and validation.tsv."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pa_csv


def read_log(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Read the columns of a log, with NaN for empty cells; empty if the file does not exist or has no rows."""
    if not path.is_file():
        return {}
    table = pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(delimiter="\t"))
    columns = {name: table.column(name).to_numpy().astype(np.float64) for name in table.column_names}
    return columns if table.num_rows else {}
