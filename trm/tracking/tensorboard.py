"""Event files for TensorBoard."""

import shutil
import sys
from pathlib import Path

from trm.tracking.logs import LogReader


class EventFiles:
    """The event files of a training in `folder`, with one scalar per column of its logs.

    The logs of a resumed run contain its earlier lines, too. So the folder is rewritten, and curves have no
    duplicate points.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # requires the extra `tensorboard`

        shutil.rmtree(folder, ignore_errors=True)
        self.writer, self.reader = SummaryWriter(str(folder)), LogReader()
        command = f"tensorboard --logdir {folder.parent}"
        print(f"tracking: event files in {folder}; `{command}` displays them", file=sys.stderr, flush=True)

    def update(self, logs: Path) -> None:
        """Write the new lines of the logs in the folder `logs`."""
        for step, values in self.reader.new_rows(logs):
            for name, value in values.items():
                if name.partition("/")[2] != "step":
                    self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, folders: dict[str, Path] | None) -> None:
        """Close the files."""
        del folders
        self.writer.close()
