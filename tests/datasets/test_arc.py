import hashlib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.datasets.arc_helpers import EVALUATION, RICH, SETTINGS, TRAINING, grid_of, names_of, splits_of, task_of
from trm.config.data import AugmentParams
from trm.data.parquet import Split, read_split, write_split
from trm.data.protocol import DatasetPlan, Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.augmentation import parse_puzzle_name, puzzle_name
from trm.datasets.arc.render import render, transform_grids
from trm.datasets.arc.tasks import write_tasks
from trm.datasets.registry import get_dataset
from trm.stages.params import load_recipe
from trm.utils.errors import DataError, UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "training.json", TRAINING)
    write_tasks(tmp_path / "evaluation.json", EVALUATION)
    return tmp_path


def _prepare(raw: Path, num_aug: int = 6, validation: int = 0, seed: int = 0) -> DatasetPlan:
    return arc.prepare(SETTINGS, AugmentParams(num_aug=num_aug, validation_groups=validation, seed=seed), raw)


def _canvas(grid: Grid | None, row: int, column: int) -> np.ndarray:
    """The canvas by definition: the grid, followed by end tokens below and to the right."""
    canvas = np.zeros((31, 31), dtype=np.uint8)
    if grid is not None:
        height, width = grid.shape
        canvas[row : row + height, column : column + width] = grid + 2
        canvas[row + height, column : column + width] = 1
        canvas[row : row + height, column + width] = 1
    return canvas[:30, :30].ravel()


def _apply(grid: Grid | None, symmetry: int, permutation: np.ndarray) -> Grid | None:
    return None if grid is None else apply_symmetry(permutation[grid].astype(np.uint8), symmetry)


def test_protocol() -> None:
    kind = get_dataset("arc")
    for name in (
        "Settings",
        "source_digest",
        "fetch",
        "prepare",
        "augmentations",
        "recall",
        "valid",
        "unique_solution",
        "normalize_text",
    ):
        assert hasattr(kind, name)
    assert kind.valid(_META, [], []) is None
    with pytest.raises(UserError, match="cannot be solved outside the dataset.* `trm evaluate`, or `trm solve-arc`"):
        kind.augmentations(_META, np.zeros(900, np.uint8), np.random.default_rng(0), 2)


def test_examples_equal_augmented_pairs(raw: Path) -> None:
    prepared = _prepare(raw)
    splits, names = splits_of(prepared), names_of(prepared)
    assert list(splits) == ["train", "test"]
    tasks = {task.name: task for task in [*TRAINING, *EVALUATION]}
    order = list(dict.fromkeys(parse_puzzle_name(name)[0] for name in names))
    assert sorted(order[:2]) == ["a", "b"] and sorted(order[2:]) == ["c", "d"]
    offsets = Counter()
    for split, data in splits.items():
        for puzzle, (start, stop) in enumerate(zip(data.puzzle_starts, data.puzzle_starts[1:], strict=False)):
            name = names[data.identifiers[start] - 1]
            task_name, symmetry, permutation = parse_puzzle_name(name)
            task = tasks[task_name]
            pairs = [*task.pairs, *task.tests] if task.subset == "training" else task.pairs
            pairs = task.tests if split == "test" else pairs
            assert stop - start == len(pairs)
            assert len(set(data.identifiers[start:stop])) == 1
            assert set(data.puzzles[start:stop]) == {puzzle}
            assert set(data.groups[start:stop]) == {order.index(task_name)}
            assert set(data.sources[start:stop]) == {task.subset}
            at_corner = 0
            for example, pair in zip(range(start, stop), pairs, strict=True):
                asked, answer = (_apply(grid, symmetry, permutation) for grid in pair)
                shapes = [grid.shape for grid in (asked, answer) if grid is not None]
                row, column = divmod(int(np.flatnonzero(data.inputs[example])[0]), 30)
                assert row <= 30 - max(h for h, _ in shapes) and column <= 30 - max(w for _, w in shapes)
                assert np.array_equal(data.inputs[example], _canvas(asked, row, column))
                assert np.array_equal(data.labels[example], _canvas(answer, row, column))
                at_corner += (row, column) == (0, 0)
                offsets[split, row, column] += 1
            # Another pair may have the offset (0, 0) by chance, out of about 800.
            assert at_corner == len(pairs) if split == "test" else 1 <= at_corner <= 2
    assert len(offsets) > 50
    assert splits["train"].source_names == ("training", "evaluation", "concept")
    assert not splits["train"].ratings.any()
    assert prepared.meta.num_identifiers == 1 + len(names) == 1 + 4 * 7


GRIDS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 9))


@settings(deadline=None)  # the first example compiles functions
@given(GRIDS, GRIDS, st.integers(0, 7), st.permutations(range(1, 10)))
def test_invert_is_inverse(given: Grid, wanted: Grid, symmetry: int, colors: list[int]) -> None:
    permutation = np.array([0, *colors], dtype=np.uint8)
    inputs, labels = np.zeros((2, 1, 900), dtype=np.uint8)
    key = np.uint64(0)
    symmetries = np.array([symmetry], np.uint8)
    render(
        transform_grids([(given, wanted)]), np.arange(1), symmetries, permutation[None], 0, key, False, inputs, labels
    )
    names = [puzzle_name("a", symmetry, "".join(map(str, permutation.tolist())))]
    asked = arc.recall(_META, inputs, names)
    assert asked.tokens is inputs and asked.names == names
    assert np.array_equal(asked.invert(inputs)[0], given)
    assert np.array_equal(asked.invert(labels)[0], wanted)


def test_invert_needs_one_answer_per_augmentation() -> None:
    asked = arc.recall(_META, np.zeros((2, 900), np.uint8), ["a", "a|||t1|||0213456789"])
    assert [grid.shape for grid in asked.invert(np.zeros((2, 900), np.uint8))] == [(0, 0), (0, 0)]
    with pytest.raises(ValueError, match="zip"):
        asked.invert(np.zeros((1, 900), np.uint8))


def test_bytes_depend_on_seed_only(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(out: str, seed: int = 0) -> list[str]:
        prepared, found = _prepare(raw, 30, 1, seed), []
        for split, plan in prepared.splits.items():
            folder = tmp_path / out / split
            write_split(folder, (make() for make in plan.blocks), 900, {})
            found.append(hashlib.sha256((folder / "examples.parquet").read_bytes()).hexdigest())
        return [*found, prepared.meta.puzzles_digest]

    one = digests("one")
    assert not set(one) & set(digests("other", seed=1))
    monkeypatch.setattr(arc, "BLOCK_SIZE", 17)
    assert digests("two") == one
    again, made = read_split(tmp_path / "one/train"), splits_of(_prepare(raw, 30, 1))["train"]
    for field in fields(Split):
        if field.name not in ("source_names", "source_codes"):
            assert np.array_equal(np.asarray(getattr(again, field.name)), getattr(made, field.name)), field.name
    assert again.sources.tolist() == made.sources.tolist()


def test_small_canvas(tmp_path: Path) -> None:
    """Tasks with a side above 3 are left out. Tokens are colors + 2; end tokens are 1 where the canvas has room."""
    small = [task_of(name, name, grid_of("12"), grid_of("3", "4")) for name in ("training", "evaluation")]
    large = task_of("large", "training", grid_of("1111"), grid_of("1"))
    write_tasks(tmp_path / "training.json", [large, small[0]])
    write_tasks(tmp_path / "evaluation.json", small[1:])
    settings = SETTINGS.model_copy(update={"canvas_side": 3})
    plan = arc.prepare(settings, AugmentParams(num_aug=0, validation_groups=0, seed=0), tmp_path)
    assert (plan.meta.height, plan.meta.width, arc.expected_meta(settings).seq_len) == (3, 3, 9)
    assert names_of(plan) == ["training", "evaluation"]
    splits = splits_of(plan)
    assert splits["test"].inputs[:].tolist() == [[3, 4, 1, 1, 1, 0, 0, 0, 0]]
    assert splits["test"].labels[:].tolist() == [[5, 1, 0, 1, 0, 0, 0, 0, 0]]
    canvases = splits["train"].inputs[:]
    assert canvases.shape == (4 + 3, 9) and (np.sort(canvases, axis=1)[:, -2:] >= 3).all()
    full = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11]], np.uint8)  # a grid that fills the canvas has no end tokens
    (grid,) = arc.recall(plan.meta, full, ["training"]).invert(full)
    assert grid.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with pytest.raises(UserError, match="canvas_side must be at least 2 for a task of training to fit. Got 1"):
        arc.prepare(
            settings.model_copy(update={"canvas_side": 1}),
            AugmentParams(num_aug=0, validation_groups=0, seed=0),
            tmp_path,
        )


def test_data_seed_shuffles_tasks(tmp_path: Path) -> None:
    tasks = [task_of(f"t{i}", "training", RICH, RICH) for i in range(30)]
    write_tasks(tmp_path / "training.json", tasks)
    write_tasks(tmp_path / "evaluation.json", EVALUATION)
    orders = []
    for seed in (0, 1, 0):
        settings = SETTINGS.model_copy(update={"seed": seed})
        augment = AugmentParams(num_aug=0, validation_groups=0, seed=0)
        orders.append(names_of(arc.prepare(settings, augment, tmp_path)))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted([*(f"t{i}" for i in range(30)), "c", "d"])


def test_validation(raw: Path) -> None:
    whole, held = _prepare(raw), _prepare(raw, validation=1)
    assert names_of(whole) == names_of(held)
    assert list(held.splits) == ["train", "validation", "test"]
    splits, names = splits_of(held), names_of(held)
    data = splits["validation"]
    (task,) = [task for task in TRAINING if task.name in {names[i - 1] for i in data.identifiers}]
    assert [names[i - 1] for i in data.identifiers] == [task.name] * len(task.tests)
    for example, (asked, answer) in enumerate(task.tests):
        assert np.array_equal(data.inputs[example], _canvas(asked, 0, 0))
        assert np.array_equal(data.labels[example], _canvas(answer, 0, 0))
    assert set(splits["test"].sources) == {"evaluation"}
    train = splits["train"]
    of_task = np.array([parse_puzzle_name(names[i - 1])[0] == task.name for i in train.identifiers])
    assert of_task.sum() == 7 * len(task.pairs)
    assert set(train.groups[of_task]) == set(data.groups)
    assert len(splits_of(_prepare(raw, validation=2))["validation"]) == 3
    with pytest.raises(UserError, match=r"^augment\.validation_groups must be at most 2, the tasks outside evaluation"):
        _prepare(raw, validation=3)


def test_puzzle_names(raw: Path) -> None:
    prepared = _prepare(raw)
    names = names_of(prepared)
    assert len(set(names)) == len(names)
    assert prepared.meta.puzzles_digest == hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert [name for name in names if "|||" not in name] == [names[0], names[7], names[14], names[21]]


def test_invalid_raw_files(raw: Path) -> None:
    write_tasks(raw / "training.json", [task_of("a", "training", RICH, RICH, known=False)])
    with pytest.raises(
        DataError, match=r"training\.json: task 'a', test pair 1, output: a grid must be a list of rows"
    ):
        _prepare(raw)
    write_tasks(raw / "training.json", [task_of("c", "training", RICH, RICH)])
    with pytest.raises(DataError, match=r"^task 'c' occurs in training and in evaluation; "):
        _prepare(raw)
    (raw / "training.json").unlink()
    with pytest.raises(DataError, match=r"training\.json: cannot be read .*; run `trm fetch` again$"):
        _prepare(raw)


@pytest.mark.parametrize("edition", ["arc-agi-1", "arc-agi-2"])
def test_recipes(edition: str) -> None:
    params = load_recipe(edition)
    assert isinstance(params.data, arc.Settings) and params.data.edition == edition
    assert (params.model.L_cycles, params.train.epochs, params.train.optimizer.puzzle_emb.lr) == (4, 100_000, 1e-2)


_META = arc.DatasetMeta(name="arc", height=30, width=30, vocabulary=arc.VOCABULARY, num_identifiers=1)
