"""Sections `data` and `augment`."""

from trm.config.base import Natural, Section


class DataSection(Section):
    """The dataset. Each dataset extends this class: `Settings` in `trm/datasets/<name>/dataset.py`."""

    name: str
    """The dataset: a folder of `trm/datasets`."""

    def max_augmentations(self) -> int | None:
        """The number of different augmentations of a puzzle, itself included; None if there is no known limit."""
        return None


class AugmentParams(Section):
    """Augmentation of the training puzzles, and the validation split."""

    num_aug: Natural
    """Augmentations of each training puzzle (of each task in ARC), in addition to the puzzle as it is."""
    validation_groups: Natural
    """Training groups held out, without augmentation, to select the best checkpoint; 0: the last checkpoint is kept."""
    seed: Natural
    """Seed of the augmentations and of the validation split."""
