"""Custom puzzles whose output has another shape than the input."""

import re
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_puzzles import ALL, generate_dataset, meta_of, settings_of
from trm.config.data import AugmentParams
from trm.data.canvas import draw_ends
from trm.data.parquet import read_meta
from trm.data.symmetries import apply_symmetry
from trm.datasets.custom import dataset as custom
from trm.datasets.registry import get_dataset
from trm.inference.puzzle import to_tokens

SHAPES = "input,output,group\n12,1/2,a\n211,2/1/1,b\n1,1,c\n22,2/2,d\n"


def test_end_tokens(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(SHAPES)
    data = settings_of(path, test_groups=1)
    splits = generate_dataset(data, tmp_path / "data")
    meta = read_meta(tmp_path / "data")
    assert (meta.height, meta.width, meta.vocabulary, meta.first_cell_token) == (3, 3, ("pad", "end", "1", "2"), 2)
    pairs = {
        str(source): (split.inputs[row].tolist(), split.labels[row].tolist())
        for split in splits.values()
        for row, source in enumerate(split.sources)
    }
    assert pairs["a"] == ([2, 3, 1, 1, 1, 0, 0, 0, 0], [2, 1, 0, 3, 1, 0, 1, 0, 0])
    assert pairs["b"] == ([3, 2, 2, 1, 1, 1, 0, 0, 0], [3, 1, 0, 2, 1, 0, 2, 1, 0])
    assert pairs["c"] == ([2, 1, 0, 1, 0, 0, 0, 0, 0],) * 2


@given(seed=st.integers(0, 2**32), height=st.integers(1, 5), width=st.integers(1, 5))
@settings(deadline=None)
def test_answers_of_another_shape_are_inverted(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    meta = meta_of(5, 5, "abc.", ALL, ".").model_copy(update={"vocabulary": ("pad", "end", *"abc.")})
    question = to_tokens(meta, get_dataset("custom"), rng.integers(0, 4, (2, 3)))
    answer = rng.integers(0, 4, (height, width)).astype(np.uint8)
    # Augment the answer as the questions: the draws depend on the seed only.
    same = custom.augmentations(meta, question, np.random.default_rng(seed), 6)
    symbols = [
        [meta.vocabulary.index(name) for name in re.findall("symbols=([^,]+)", text)[0].split(" ")]
        for text in same.names
    ]
    numbers = [int(re.findall("symmetry=([0-9])", text)[0]) for text in same.names]
    canvases = np.zeros((6, 5, 5), np.uint8)
    for canvas, names, symmetry in zip(canvases, symbols, numbers, strict=True):
        grid = apply_symmetry(np.array(names, np.uint8)[answer], symmetry)
        canvas[: grid.shape[0], : grid.shape[1]] = grid
        draw_ends(canvas, 0, 0, (grid.shape[0], grid.shape[1]))
    answers = same.invert(canvases.reshape(6, 25))
    assert all(np.array_equal(each, answer) for each in answers)
    assert same.invert(np.ones((6, 25), np.uint8))[0].shape == (0, 0)


def test_translations_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(SHAPES)
    data = settings_of(path, test_groups=1, symmetries=["translate"], height=4, width=4)
    train = generate_dataset(data, tmp_path / "data", AugmentParams(num_aug=30, validation_groups=0, seed=0))["train"]
    for inputs, labels in zip(train.inputs[:], train.labels[:], strict=True):
        corners = [np.argwhere(tokens.reshape(4, 4) >= 2).min(axis=0).tolist() for tokens in (inputs, labels)]
        assert corners[0] == corners[1]
        assert (inputs >= 2).sum() == (labels >= 2).sum()  # nothing is cut off
