"""The dataset `sorting`."""

from pathlib import Path

import numpy as np
import pytest

from trm.cli.dataset_template import dataset
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.utils.errors import UserError

SECTION = {"name": "sorting", "length": 4, "train_puzzles": 20, "test_puzzles": 5, "seed": 0}


def test_every_answer_is_valid(tmp_path: Path) -> None:
    """The raw files have as many puzzles as the settings, and the augmentations of a puzzle have valid answers."""
    data = parse(dataset.Settings, SECTION, "params.yaml")
    assert dataset.fetch(data, tmp_path) == {"train": 20, "test": 5}
    plan = dataset.prepare(data, AugmentParams(num_aug=3, validation_groups=2, seed=0), tmp_path)
    assert {name: split.examples for name, split in plan.splits.items()} == {
        "train": 18 * 4,
        "validation": 2,
        "test": 5,
    }
    for split in plan.splits.values():
        for block in split.blocks:
            examples = block()
            questions, answers = (list(tokens[:][:, None] - 1) for tokens in (examples.inputs, examples.labels))
            assert all(dataset.valid(plan.meta, questions, answers))


def test_votes_are_inverted(tmp_path: Path) -> None:
    """The answers to the augmentations of a puzzle are answers to the puzzle itself."""
    data = parse(dataset.Settings, SECTION, "params.yaml")
    dataset.fetch(data, tmp_path)
    meta = dataset.prepare(data, AugmentParams(num_aug=0, validation_groups=0, seed=0), tmp_path).meta
    tokens = np.array([4, 2, 9, 2], np.uint8)
    augmentations = dataset.augmentations(meta, tokens, np.random.default_rng(0), 5)
    assert augmentations.tokens.shape == (5, 4)
    assert np.array_equal(augmentations.tokens[0], tokens)
    solutions = np.stack([np.sort(each) for each in augmentations.tokens])
    assert [answer.tolist() for answer in augmentations.invert(solutions)] == [[[1, 1, 3, 8]]] * 5


def test_impossible_settings(tmp_path: Path) -> None:
    """Settings that cannot be met are an error of one line."""
    data = parse(dataset.Settings, SECTION | {"length": 1}, "params.yaml")
    with pytest.raises(UserError, match=r"^data.length must be greater for 25 different puzzles. Got 1$"):
        dataset.fetch(data, tmp_path)
