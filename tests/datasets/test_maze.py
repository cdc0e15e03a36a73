from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.data.parquet import Split, read_meta, read_split
from trm.data.puzzle_csv import concatenate, read_puzzles
from trm.data.symmetries import apply_symmetry
from trm.datasets.augment import augment
from trm.datasets.maze import dataset as maze
from trm.datasets.maze.rules import maze_valid
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError, UserError

GENERATE = {
    "type": "generate",
    "train_puzzles": 20,
    "test_puzzles": 5,
    "wall_density": [0.2, 0.4],
    "min_path": 8,
    "seed": 0,
}


def settings_of(size: float = 6, allow_leakage: bool = False, source: Mapping[str, object] = GENERATE) -> maze.Settings:
    values = {"name": "maze", "size": size, "source": source, "allow_leakage": allow_leakage}
    return parse(maze.Settings, values, "params.yaml")


def files(folder: Path, **changes: object) -> dict[str, object]:
    """Settings of a `path` source."""
    names = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    nothing = {"train_sha256": None, "test_sha256": None, "min_rating": None, "subsample": None, "seed": 0}
    return {"type": "path", **names, **nothing, **changes}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw folder with 20 training and 5 test mazes 6x6."""
    folder = tmp_path_factory.mktemp("raw")
    facts = maze.fetch(settings_of(), folder)
    assert facts["train_puzzles"] == 20
    assert facts["test_puzzles"] == 5
    return folder


def training_split(raw: Path, out: Path, num_aug: int = 0, validation_groups: int = 0, seed: int = 0) -> Split:
    """Generate a dataset from `raw`; return its training split."""
    params = AugmentParams(num_aug=num_aug, validation_groups=validation_groups, seed=seed)
    augment(settings_of(), params, raw, out, "key")
    return read_split(out / "train")


def test_registry() -> None:
    assert get_dataset("maze") is maze


@pytest.mark.parametrize("size", [3, 65, 5.5])
def test_sizes(size: float) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: size must be"):
        settings_of(size)


def test_generated_mazes(raw: Path) -> None:
    puzzles = concatenate(read_puzzles(raw / "train.csv", maze.layout(6)))
    questions, answers = maze.cells(puzzles.questions, 6), maze.cells(puzzles.answers, 6)
    assert maze_valid(questions, answers).all()
    assert np.array_equal(puzzles.ratings, (answers == 4).sum(axis=(1, 2)) + 1)
    assert puzzles.ratings.min() >= 8
    assert set(puzzles.sources) == {"generated"}
    assert maze.source_digest(settings_of()) == {}


def test_spaces_are_not_stripped(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("source,question,answer,rating\ns,  S       G     ,  S   o   G     ,2\n")
    puzzles = concatenate(read_puzzles(path, maze.layout(4)))
    assert puzzles.questions.tolist() == [[2, 2, 3, 2, 2, 2, 2, 2, 2, 2, 4, 2, 2, 2, 2, 2]]
    assert puzzles.answers.tolist() == [[2, 2, 3, 2, 2, 2, 5, 2, 2, 2, 4, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize("rating", ["99", "hard", ""])
def test_rating_is_computed_from_path(raw: Path, tmp_path: Path, rating: str) -> None:
    for name in ("train.csv", "test.csv"):
        header, *lines = (raw / name).read_text().splitlines()
        changed = [line.rpartition(",")[0] + f",{rating}" for line in lines]
        (tmp_path / name).write_text("\n".join([header, *changed]) + "\n")
    known = concatenate(read_puzzles(raw / "train.csv", maze.layout(6)))
    moves = (known.answers == 5).sum(axis=1) + 1
    assert np.array_equal(training_split(tmp_path, tmp_path / "out").ratings, moves)
    lowest = int(moves.min()) + 1
    (tmp_path / "kept").mkdir()
    facts = maze.fetch(settings_of(source=files(tmp_path, min_rating=lowest)), tmp_path / "kept")
    assert facts["train_puzzles"] == (moves >= lowest).sum() < 20


def test_all_symmetries_in_training_split(raw: Path, tmp_path: Path) -> None:
    train = training_split(raw, tmp_path, num_aug=7)
    assert train.counts() == {"groups": 20, "puzzles": 160, "examples": 160}
    puzzles = concatenate(read_puzzles(raw / "train.csv", maze.layout(6)))
    assert np.array_equal(train.groups, np.repeat(np.arange(20), 8))
    assert np.array_equal(train.puzzles, np.arange(160))
    assert not train.identifiers.any()
    assert np.array_equal(train.ratings, np.repeat(puzzles.ratings, 8))
    for name in ("inputs", "labels"):
        tokens = getattr(train, name)[:].reshape(20, 8, 36)
        plain = (puzzles.questions if name == "inputs" else puzzles.answers).reshape(20, 6, 6)
        assert np.array_equal(tokens[:, 0], plain.reshape(20, 36))
        for group in range(20):
            expected = {apply_symmetry(plain[group], symmetry).tobytes() for symmetry in range(8)}
            assert {version.tobytes() for version in tokens[group]} == expected
    assert maze_valid(maze.cells(train.inputs[:], 6), maze.cells(train.labels[:], 6)).all()
    test = read_split(tmp_path / "test")
    assert test.counts() == {"groups": 5, "puzzles": 5, "examples": 5}
    meta = read_meta(tmp_path)
    assert meta == maze.maze_meta(6)
    assert meta.vocabulary == ("pad", "#", " ", "S", "G", "o")
    assert meta.vocab_size == 6


def test_subset_of_symmetries(raw: Path, tmp_path: Path) -> None:
    train, again, other = (
        training_split(raw, tmp_path / name, 3, seed=seed) for name, seed in {"a": 1, "b": 1, "c": 2}.items()
    )
    assert np.array_equal(train.inputs[:], again.inputs[:])
    assert not np.array_equal(train.inputs[:], other.inputs[:])
    augmentations = train.inputs[:].reshape(20, 4, 36)
    assert all(len(np.unique(group, axis=0)) == 4 for group in augmentations)
    plain = augmentations[:, 0].reshape(20, 6, 6)
    used = {s for s in range(1, 8) for v in range(1, 4) for m in range(20)
            if np.array_equal(apply_symmetry(plain[m], s).ravel(), augmentations[m, v])}  # fmt: skip
    assert used == set(range(1, 8))
    # The augmentations of a maze do not depend on the groups held out.
    held = training_split(raw, tmp_path / "d", 3, 5, seed=1)
    assert held.counts()["groups"] == 15
    assert np.array_equal(held.inputs[:], train.inputs[:][np.isin(train.groups, held.groups)])


def test_too_many_augmentations(raw: Path) -> None:
    with pytest.raises(UserError, match=r"^augment.num_aug must be at most 7, .* Got 8$"):
        maze.prepare(settings_of(), AugmentParams(num_aug=8, validation_groups=0, seed=0), raw)


def test_rotated_maze_is_leakage(raw: Path, tmp_path: Path) -> None:
    layout = maze.layout(6)
    train = (raw / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(train)
    puzzle = concatenate(read_puzzles(raw / "train.csv", layout)).select(slice(7, 8))
    rotated = [apply_symmetry(tokens.reshape(6, 6), 3).ravel() for tokens in (puzzle.questions, puzzle.answers)]
    letters = np.array(list("?# SGo"))
    line = ",".join("".join(letters[tokens]) for tokens in rotated)
    (tmp_path / "test.csv").write_text(f"source,question,answer,rating\nturned,{line},8\n")
    none = AugmentParams(num_aug=0, validation_groups=0, seed=0)
    with pytest.raises(DataError, match=r"test.csv, line 2: .*train.csv, line 9; .* data.allow_leakage: true$"):
        maze.prepare(settings_of(), none, tmp_path)
    maze.prepare(settings_of(allow_leakage=True), none, tmp_path)


def test_published_files(shared_data: Path, tmp_path: Path) -> None:
    data = settings_of(30, source=files(shared_data / "maze-30x30-hard-1k", subsample=50, min_rating=112))
    facts = maze.fetch(data, tmp_path)
    assert facts["train_puzzles"] == 50
    puzzles = concatenate(read_puzzles(tmp_path / "train.csv", maze.layout(30)))
    assert puzzles.ratings.min() >= 112
    params = AugmentParams(num_aug=0, validation_groups=0, seed=0)
    assert list(maze.prepare(data, params, tmp_path).splits) == ["train", "test"]


def test_invalid_rows(raw: Path, tmp_path: Path) -> None:
    lines = (raw / "train.csv").read_text().splitlines()
    source, question, answer, rating = lines[4].split(",")
    broken = {
        f"{source},{question.replace('S', ' ')},{answer},{rating}": "must have exactly one S",
        f"{source},{question},{question},{rating}": "do not connect S with G",
        f"{source},{question.strip()[:-1]},{answer},{rating}": r"question must have 36 characters \(data.size is 6\)",
        f"{source},{question.replace('S', 'o')},{answer},{rating}": "question contains 'o' at cell",
        f"{source},{question},{answer.replace('#', '.')},{rating}": "answer contains '.' at cell",
    }
    for row, problem in broken.items():
        (tmp_path / "train.csv").write_text("\n".join([*lines[:4], row, *lines[5:]]) + "\n")
        (tmp_path / "test.csv").write_text((raw / "test.csv").read_text())
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=rf"^{tmp_path}/train.csv, line 5: .*{problem}"):
            maze.fetch(settings_of(source=files(tmp_path)), tmp_path / "out")


@given(seed=st.integers(0, 2**32), k=st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_invert_is_inverse(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 6, 25, dtype=np.uint8)
    augmentations = maze.augmentations(maze.maze_meta(5), tokens, rng, k)
    assert augmentations.tokens.shape == (k, 25)
    assert augmentations.tokens.dtype == np.uint8
    assert np.array_equal(augmentations.tokens[0], tokens)
    assert len(set(augmentations.names)) == k
    grids = augmentations.invert(augmentations.tokens)
    assert len(grids) == k
    assert all(np.array_equal(grid, tokens.reshape(5, 5) - 1) for grid in grids)


def test_too_many_votes() -> None:
    tokens = np.ones(25, np.uint8)
    with pytest.raises(UserError, match=r"^evaluate.num_votes must be at most 8, .* Got 9$"):
        maze.augmentations(maze.maze_meta(5), tokens, np.random.default_rng(0), 9)


def test_valid_accepts_any_shortest_path() -> None:
    meta = maze.maze_meta(4)
    question = np.array([[2, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 3]], np.uint8)
    one, other, longer = question.copy(), question.copy(), question.copy()
    one[1:, 0], one[3, 1:3] = 4, 4
    other[0, 1:], other[1:3, 3] = 4, 4
    longer[0, 1:], longer[1:3, 3], longer[2, 2] = 4, 4, 4
    padding_only = maze.augmentations(meta, np.zeros(16, np.uint8), np.random.default_rng(0), 1).invert(
        np.zeros((1, 16), "u1")
    )
    answers = [one, other, longer, question, *padding_only]
    assert list(maze.valid(meta, [question] * 5, answers)) == [True, True, False, False, False]
    # Predicted padding is not a wall.
    question[1, 1], one[1, 1] = 0, 0
    tokens = (one + np.uint8(1)).reshape(1, 16)
    assert maze.valid(meta, [question], [maze.cells(tokens[0], 4)])[0]
    tokens[0, 5] = 0
    padded = maze.augmentations(meta, tokens[0], np.random.default_rng(0), 1).invert(tokens)
    assert not maze.valid(meta, [question], padded)[0]
