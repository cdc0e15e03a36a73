"""Drawing of sums."""

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing


def make_drawing(meta: DatasetMeta) -> Drawing:
    """Digits and signs; the digits of the sum are blank (255, padding) in the question."""
    return Drawing(
        title="Addition",
        symbols=list(meta.vocabulary[1:]),
        blank=255,
        rating="carries: {}",
        difficulty="carries in the sum",
    )
