"""Drawing of custom puzzles."""

from dataclasses import replace

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing, plain_drawing


def make_drawing(meta: DatasetMeta) -> Drawing:
    """The symbols of the user's alphabet, each on a color of its own."""
    return replace(
        plain_drawing(meta),
        title="Custom puzzles",
        separate_question=True,
        cell_count="cells of the solution",
    )
