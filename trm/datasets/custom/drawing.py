"""Drawing of custom puzzles."""

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing


def make_drawing(meta: DatasetMeta) -> Drawing:
    """The symbols of the user's alphabet."""
    return Drawing(
        title="Custom puzzles",
        symbols=list(meta.vocabulary[1:]),
        separate_question=True,
        cell_count="cells of the solution",
    )
