"""Drawing of Sudoku."""

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing
from trm.datasets.sudoku.augmentation import BOXES


def make_drawing(meta: DatasetMeta) -> Drawing:
    """Digits in boxes; blanks are empty."""
    return Drawing(
        title="Sudoku",
        symbols=["", *meta.vocabulary[2:]],
        boxes=BOXES.get(meta.height),
        blank=0,
        cell_count="given cells",
        difficulty="rating of the Sudoku",
    )
