"""Drawing of ARC tasks."""

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing

COLORS = ("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25")
"""The colors of the ARC website."""
NAMES = ("black", "blue", "red", "green", "yellow", "gray", "magenta", "orange", "light blue", "maroon")


def make_drawing(meta: DatasetMeta) -> Drawing:
    """Colored cells without symbols."""
    return Drawing(
        title=meta.edition.upper() or "ARC",
        symbols=[""] * len(COLORS),
        colors=list(COLORS),
        terminal_symbols=["·", *"123456789"],
        names=list(NAMES),
        separate_question=True,
        has_tasks=True,
        cell_count="cells of the solution",
    )
