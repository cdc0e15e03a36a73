"""Reads the logs of a training while they grow."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

LOGS = ("train", "validation")


class LogReader:
    """The lines of the logs of a training, each of them once."""

    def __init__(self, last: dict[str, int] | None = None) -> None:
        """last: log -> the last step that is already known."""
        self.last = dict.fromkeys(LOGS, -1) | (last or {})

    def new_rows(self, folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
        """The step and the values, named `<log>/<column>`, of each line that was added since the last call."""
        for log in LOGS:
            for row in _rows(folder / f"{log}.tsv"):
                step = int(row["step"])
                if step > self.last[log]:
                    self.last[log] = step
                    yield step, {f"{log}/{name}": float(value) for name, value in row.items() if value}


def _rows(path: Path) -> list[dict[str, str]]:
    """The complete lines of a log."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), delimiter="\t"))
