"""Sections `data` and `augment`."""

from trm.config.base import Natural, Section


class DataSection(Section):
    """What is learned. Each kind of data has settings of its own: `Settings` in `trm/datasets/<kind>.py`."""

    name: str
    """The dataset: a folder of `trm.datasets`."""

    def most_versions(self) -> int | None:
        """Versions that a puzzle has at most, itself included; None: no known bound."""
        return None


class AugmentParams(Section):
    """What is made of the raw puzzles: shuffled versions, and groups held out for validation."""

    num_aug: Natural
    """Versions of each training puzzle (in ARC: of each task), besides the puzzle as it is."""
    validation_groups: Natural
    """Training groups held out, as they are, to choose the best checkpoint; 0: the last checkpoint is the result."""
    seed: Natural
