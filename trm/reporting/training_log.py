"""What a training wrote down as it went: the logs in a model folder."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pa_csv


def read_log(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a training's log, NaN where a cell is empty; nothing where there is no such file, or no line."""
    if not path.is_file():
        return {}
    table = pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(delimiter="\t"))
    columns = {name: table.column(name).to_numpy().astype(np.float64) for name in table.column_names}
    return columns if table.num_rows else {}
