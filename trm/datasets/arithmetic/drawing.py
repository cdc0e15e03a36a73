"""Drawing of sums."""

from dataclasses import replace

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing, plain_drawing


def make_drawing(meta: DatasetMeta) -> Drawing:
    """Digits and signs on colors; the digits of the sum are blank (255, padding) in the question."""
    return replace(
        plain_drawing(meta),
        title="Addition",
        blank=255,
        rating="carries: {}",
        difficulty="carries in the sum",
    )
