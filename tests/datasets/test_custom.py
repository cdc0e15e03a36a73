import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_puzzles import ALL, crop, generate_dataset, meta_of, plan_dataset, settings_of
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.data.parquet import read_meta
from trm.datasets.custom import dataset as custom
from trm.datasets.custom.augmentation import augmentation_space, canonical_forms, draw_distinct_augmentations
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """12 groups of one to three puzzles on grids 2x3, 3x3 and 1x2; the output exchanges x and o of the input."""
    rng = np.random.default_rng(0)
    lines, number = ["input,output,group"], 0
    for group in range(12):
        for _ in range(1 + group % 3):
            height, width = [(2, 3), (3, 3), (1, 2)][group % 3]
            # A unique symbol makes each puzzle different from the others.
            rows = ["".join(rng.choice(list(".xo"), width)) for _ in range(height)]
            rows[0] = chr(ord("A") + number) + rows[0][1:]
            number += 1
            exchanged = [row.translate(str.maketrans("xo", "ox")) for row in rows]
            lines.append(f"{'/'.join(rows)},{'/'.join(exchanged)},g{group}")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_registry() -> None:
    assert get_dataset("custom") is custom


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": {"type": "path", "file": "a.txt", "sha256": None}},
            "source.file: must end in .csv or .jsonl. Got a",
        ),
        ({"alphabet": "112"}, "alphabet: must not contain a symbol twice"),
        ({"alphabet": ""}, "alphabet has too few items"),
        ({"alphabet": 12}, "alphabet must be a list"),
        ({"alphabet": ["1", "ab"]}, "alphabet: a symbol must be one character or an integer. Got 'ab'"),
        ({"alphabet": [1, True]}, "alphabet: a symbol must be one character or an integer. Got True"),
        ({"alphabet": list(range(255))}, "alphabet: must have at most 253 symbols. Got 255"),
        ({"height": 65}, "height must be less than or equal to 64"),
        ({"width": 0}, "width must be greater than or equal to 1"),
        ({"symmetries": ["mirror"]}, "symmetries.0 must be 'dihedral', 'permute_symbols' or 'translate'. Got 'mirror'"),
    ],
)
def test_invalid_settings(changes: Mapping[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^params.yaml: {message}"):
        settings_of("a.csv", **changes)


def test_settings() -> None:
    assert settings_of("a.csv", alphabet="201").alphabet == ("2", "0", "1")
    assert settings_of("a.csv", alphabet=[10, "x", 0]).alphabet == ("10", "x", "0")
    data = settings_of("a.jsonl", fixed_symbols="x", symmetries=ALL)
    assert parse(custom.Settings, data.model_dump(mode="json"), "again") == data
    url = {"type": "url", "file": "https://example.org/a.csv?raw=1", "sha256": None}
    assert custom.source_digest(settings_of("", source=url)) == {}
    assert custom.source_digest(settings_of("", source={**url, "sha256": "0" * 64})) == {"sha256": "0" * 64}


def test_fetch_keeps_bytes(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    facts = custom.fetch(settings_of(file), tmp_path / "out")
    assert facts == {"sha256": file_digest(file), "puzzles": 24, "groups": 12}
    assert custom.source_digest(settings_of(file)) == {"sha256": file_digest(file)}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["puzzles.csv"]
    assert (tmp_path / "out" / "puzzles.csv").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["my#1.csv", "my?1.csv"])
def test_special_characters_in_path(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    custom.fetch(settings_of(file.rename(tmp_path / name)), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["puzzles.csv"]
    with pytest.raises(UserError, match=r"source.file: must end in .csv or .jsonl. Got a.csv\?raw=1"):
        settings_of("a.csv?raw=1")


def test_url_with_query(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "download_file", lambda url, target, sha256: target.write_bytes(file.read_bytes()))
    url = {"type": "url", "file": "https://example.org/a.csv?raw=1#top", "sha256": None}
    (tmp_path / "out").mkdir()
    custom.fetch(settings_of("", source=url), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["puzzles.csv"]
    with pytest.raises(UserError, match=r"source.file: must end in .csv or .jsonl. Got https://example.org/a"):
        settings_of("", source={**url, "file": "https://example.org/a?b.csv"})


def test_fetch_errors_name_file_of_user(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    wrong = {"type": "path", "file": str(file), "sha256": "0" * 64}
    with pytest.raises(UserError, match=rf"^data.source.sha256: expected 0{{64}}. {file} has {file_digest(file)}; "):
        custom.fetch(settings_of(file, source=wrong), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UserError, match=r"^data.source.file: .*none.csv is not a readable file"):
        custom.fetch(settings_of(tmp_path / "none.csv"), tmp_path / "out")
    file.write_text("input,output\n12,1/12\n")
    with pytest.raises(DataError, match=rf"^{file}, line 2: "):
        custom.fetch(settings_of(file), tmp_path / "out")


def test_groups_stay_together(file: Path, tmp_path: Path) -> None:
    params = AugmentParams(num_aug=0, validation_groups=3, seed=1)
    splits = generate_dataset(settings_of(file), tmp_path / "data", params)
    groups = {name: set(split.groups.tolist()) for name, split in splits.items()}
    assert {name: len(numbers) for name, numbers in groups.items()} == {"train": 7, "validation": 3, "test": 2}
    assert set.union(*groups.values()) == set(range(12))
    for split in splits.values():
        assert np.bincount(split.groups, minlength=12).tolist() == [
            1 + group % 3 if group in split.groups else 0 for group in range(12)
        ]
        assert (np.diff(split.groups) >= 0).all()
        assert split.sources.tolist() == [f"g{group}" for group in split.groups]
        assert not split.ratings.any()
        assert not split.identifiers.any()
    assert np.array_equal(splits["train"].puzzles, np.arange(len(splits["train"])))
    # The rows of a test group are the examples of one puzzle, so that each is evaluated.
    assert splits["test"].counts()["puzzles"] == 2
    assert splits["test"].counts()["examples"] == len(splits["test"])
    meta = read_meta(tmp_path / "data")
    assert meta == meta_of(3, 3, "." + "".join(chr(ord("A") + n) for n in range(24)) + "ox", [])
    again = generate_dataset(settings_of(file), tmp_path / "again", params)
    assert all(np.array_equal(splits[name].inputs[:], again[name].inputs[:]) for name in splits)
    other = generate_dataset(settings_of(file, seed=5), tmp_path / "other", params)
    assert set(other["test"].groups.tolist()) != groups["test"]
    other = generate_dataset(
        settings_of(file), tmp_path / "third", AugmentParams(num_aug=0, validation_groups=3, seed=2)
    )
    assert set(other["test"].groups.tolist()) == groups["test"]
    assert set(other["validation"].groups.tolist()) != groups["validation"]


def test_rows_of_group_become_contiguous(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input,output,group\n1,1,a\n2,2,b\n3,3,a\n4,4,b\n5,5,c\n6,6,c\n")
    splits = generate_dataset(settings_of(path, test_groups=1), tmp_path / "data")
    assert sorted([splits["train"].groups.tolist(), splits["test"].groups.tolist()], key=len)[1] in (
        [0, 0, 1, 1],
        [0, 0, 2, 2],
        [1, 1, 2, 2],
    )
    assert splits["train"].counts() == {"groups": 2, "puzzles": 4, "examples": 4}
    assert splits["test"].counts() == {"groups": 1, "puzzles": 1, "examples": 2}


def test_augmentations_of_training_puzzles(file: Path, tmp_path: Path) -> None:
    data = settings_of(file, symmetries=ALL, fixed_symbols=".", height=4, width=4, allow_leakage=True)
    params = AugmentParams(num_aug=20, validation_groups=2, seed=3)
    splits = generate_dataset(data, tmp_path / "data", params)
    meta = read_meta(tmp_path / "data")
    assert meta.symmetries == tuple(ALL)
    assert meta.fixed_symbols == (".",)
    plain = generate_dataset(
        settings_of(file, height=4, width=4), tmp_path / "plain", params.model_copy(update={"num_aug": 0})
    )
    train, space = splits["train"], augmentation_space(meta)
    starts = train.counts()
    assert starts["puzzles"] == starts["examples"] == 21 * len(plain["train"])
    pairs = np.hstack([train.inputs[:], train.labels[:]]).reshape(-1, 21, 32)
    assert np.array_equal(pairs[:, 0, :16], plain["train"].inputs[:])
    assert np.array_equal(train.groups.reshape(-1, 21)[:, 0], plain["train"].groups)
    for augmentations in pairs:
        assert len(np.unique(augmentations, axis=0)) == 21
        question, answer = augmentations.reshape(21, 2, 4, 4).swapaxes(0, 1)
        forms = canonical_forms(space, [crop(grid) for grid in question])
        assert len(set(forms)) == 1
        assert np.array_equal(question == 0, answer == 0)
        assert np.array_equal(question == 1, answer == 1)  # the fixed symbol
    for name in ("validation", "test"):
        assert np.array_equal(splits[name].inputs[:], plain[name].inputs[:])
    # The augmentations of a puzzle do not depend on other groups.
    fewer = generate_dataset(data, tmp_path / "fewer", params.model_copy(update={"validation_groups": 5}))["train"]
    assert np.array_equal(fewer.inputs[:], train.inputs[:][np.isin(train.groups, fewer.groups)])
    assert not np.array_equal(
        generate_dataset(data, tmp_path / "else", params.model_copy(update={"seed": 4}))["train"].inputs[:21],
        train.inputs[:21],
    )


def test_input_and_output_have_same_transform(file: Path, tmp_path: Path) -> None:
    data = settings_of(file, symmetries=ALL, height=5, width=5, allow_leakage=True)
    train = generate_dataset(data, tmp_path / "data", AugmentParams(num_aug=30, validation_groups=0, seed=0))["train"]
    inputs, labels = train.inputs[:].astype(int), train.labels[:].astype(int)
    for start in range(0, len(train), 31):
        for row in range(start, start + 31):
            # The output exchanges two symbols at most, whatever x and o are mapped to.
            changed = inputs[row] != labels[row]
            swaps = {(a, b) for a, b in zip(inputs[row][changed], labels[row][changed], strict=True)}
            assert len({frozenset(swap) for swap in swaps}) <= 1


def test_fewer_augmentations_of_symmetric_puzzles(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input,output\n11/11,11/11\n12/33,12/33\n22/21,22/12\n")
    data = settings_of(path, test_groups=1, symmetries=["dihedral"], allow_leakage=True, seed=2)
    splits = generate_dataset(data, tmp_path / "data", AugmentParams(num_aug=7, validation_groups=0, seed=0))
    counts = np.bincount(splits["train"].groups)
    assert counts[0] in (0, 1)  # a square of one symbol has no other augmentations
    assert splits["train"].counts()["puzzles"] == len(splits["train"])
    assert np.array_equal(splits["train"].puzzles, np.arange(len(splits["train"])))
    space = augmentation_space(meta_of(2, 2, "123", ["dihedral"]))
    rng = np.random.default_rng(0)
    same = np.ones((2, 2), np.uint8)
    assert len(draw_distinct_augmentations(space, rng, same, same, 7)) == 1
    corner = np.array([[1, 1], [1, 2]], np.uint8)
    assert len(draw_distinct_augmentations(space, rng, corner, corner, 7)) == 4
    assert len(draw_distinct_augmentations(space, rng, corner, corner[::-1].copy(), 3)) == 4
    every = np.array([[1, 2], [3, 3]], np.uint8)
    assert len(draw_distinct_augmentations(space, rng, every, every, 7)) == 8
    assert len(draw_distinct_augmentations(space, rng, every, every, 0)) == 1
    assert (
        len(draw_distinct_augmentations(space, rng, same, every, 7)) == 8
    )  # equal questions with different answers are different puzzles


def test_draws_differ_between_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input,output\n" + "12345/67890,12345/67890\n" * 4)
    data = settings_of(path, test_groups=1, symmetries=["permute_symbols"], allow_leakage=True)

    def augmentations(seed: int) -> np.ndarray:
        params = AugmentParams(num_aug=3, validation_groups=0, seed=seed)
        return generate_dataset(data, tmp_path / str(seed), params)["train"].inputs[:].reshape(3, 4, 10)

    first, other = augmentations(0), augmentations(1)
    assert len(np.unique(first.reshape(12, 10), axis=0)) == 1 + 3 * 3
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("block", [1, 50])
def test_examples_are_independent_of_block_size(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    data = settings_of(file, symmetries=ALL, height=4, width=4, allow_leakage=True)
    params = AugmentParams(num_aug=20, validation_groups=2, seed=3)
    whole = plan_dataset(data, tmp_path / "whole", params).splits
    ones = {name: [call() for call in plan.blocks] for name, plan in whole.items()}
    monkeypatch.setattr(custom, "BLOCK_SIZE", block)
    for name, plan in plan_dataset(data, tmp_path / "parts", params).splits.items():
        (one,) = ones[name]
        parts = [call() for call in plan.blocks]
        assert len(parts) > 1 or (name, block) != ("train", 50)
        assert all(len(part) <= max(block, 21) for part in parts)
        assert all(part.source_names is parts[0].source_names for part in parts)
        assert plan.examples == whole[name].examples == len(one)
        for field in ("inputs", "labels", "groups", "puzzles", "identifiers", "sources", "ratings"):
            assert np.array_equal(np.concatenate([getattr(part, field) for part in parts]), getattr(one, field))


def test_augmentations_are_not_kept_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    symbols = [chr(0x4E00 + number) for number in range(250)]
    rows = ["".join(rng.choice(symbols, 9)) for _ in range(101)]
    path = tmp_path / "mine.csv"
    path.write_text("input,output\n" + "".join(f"{row},{row}\n" for row in rows))
    data = settings_of(path, symmetries=["permute_symbols"], alphabet=symbols, test_groups=1, allow_leakage=True)
    folder = tmp_path / "raw"
    folder.mkdir()
    custom.fetch(data, folder)
    tracemalloc.start()
    plan = custom.prepare(data, AugmentParams(num_aug=200, validation_groups=0, seed=0), folder).splits["train"]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert plan.examples == 100 * 201
    assert kept < 1_000_000  # a transform has 250 bytes
    assert "count augmentations: 100 done" in capsys.readouterr().err


def test_sources_are_group_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input,output,group\n1,1,monday\n2,2,7\n3,3,monday\n4,4,sunday\n")
    splits = generate_dataset(settings_of(path, test_groups=1), tmp_path / "data")
    named = {
        (row[0], name) for split in splits.values() for row, name in zip(split.inputs[:], split.sources, strict=True)
    }
    assert named == {(1, "monday"), (2, "7"), (3, "monday"), (4, "sunday")}
    path.write_text("input,output\n1,1\n\n2,2\n")
    splits = generate_dataset(settings_of(path, test_groups=1), tmp_path / "lines")
    assert {str(name) for split in splits.values() for name in split.sources} == {"line 2", "line 4"}


def test_symmetries_of_rectangle() -> None:
    space = augmentation_space(meta_of(2, 3, "123456", ["dihedral"]))
    assert space.symmetries == (0, 2, 4, 5)
    grid = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    assert len(draw_distinct_augmentations(space, np.random.default_rng(0), grid, grid, 9)) == 4
    assert augmentation_space(meta_of(3, 3, "12", ["dihedral"])).symmetries == tuple(range(8))
    assert augmentation_space(meta_of(3, 3, "12", ["translate"])).symmetries == (0,)


def test_impossible_settings(file: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    custom.fetch(settings_of(file), raw)
    one = AugmentParams(num_aug=1, validation_groups=0, seed=0)
    with pytest.raises(UserError, match=r"^augment.num_aug must be 0 if data.symmetries is empty. Got 1$"):
        custom.prepare(settings_of(file), one, raw)
    with pytest.raises(UserError, match=r"^data.fixed_symbols: '!' is not a symbol of the puzzles; use some of \. A B"):
        custom.prepare(settings_of(file, fixed_symbols="!"), one, raw)
    with pytest.raises(
        UserError, match=r"^data.symmetries: permute_symbols needs at least two symbols. Got 1; remove symbols"
    ):
        fixed = "." + "".join(chr(ord("A") + n) for n in range(24)) + "o"
        custom.prepare(settings_of(file, symmetries=["permute_symbols"], fixed_symbols=fixed), one, raw)
    with pytest.raises(
        DataError,
        match=r"raw/puzzles.csv: expected more than 12 groups: .* is 10, augment.validation_groups is 2. Got 12; ",
    ):
        custom.prepare(settings_of(file, test_groups=10), AugmentParams(num_aug=0, validation_groups=2, seed=0), raw)
    full = tmp_path / "full.csv"
    full.write_text("input,output\n12,21\n11,22\n13,31\n")
    (tmp_path / "other").mkdir()
    custom.fetch(settings_of(full), tmp_path / "other")
    with pytest.raises(UserError, match=r"^data.symmetries: translate has no effect .* 1 x 2; increase data.height or"):
        custom.prepare(settings_of(full, symmetries=["translate"], test_groups=1), one, tmp_path / "other")
    custom.prepare(settings_of(full, symmetries=["translate"], test_groups=1, width=3), one, tmp_path / "other")
    with pytest.raises(DataError, match=r"puzzles.csv: no such file"):
        custom.prepare(settings_of(full), one, tmp_path)


@given(seed=st.integers(0, 2**32), k=st.integers(1, 8), translated=st.booleans())
@settings(deadline=None)
def test_augmentations_for_voting(seed: int, k: int, translated: bool) -> None:
    rng = np.random.default_rng(seed)
    meta = meta_of(5, 5, "abc.", ALL, ".")
    grid = rng.integers(1, 5, (2, 3), dtype=np.uint8)
    canvas = np.zeros((5, 5), np.uint8)
    top, left = (2, 1) if translated else (0, 0)
    canvas[top : top + 2, left : left + 3] = grid
    augmentations = custom.augmentations(meta, canvas.ravel(), rng, k)
    assert np.array_equal(augmentations.tokens[0], canvas.ravel())
    assert augmentations.tokens.shape == (k, 25)
    assert len(augmentations.names) == k
    # Predictions outside of the grid are ignored.
    answers = np.where(augmentations.tokens == 0, np.uint8(2), augmentations.tokens)
    answers_inverted = augmentations.invert(answers)
    assert len(answers_inverted) == k
    assert all(answer.dtype == np.uint8 and np.array_equal(answer, grid - 1) for answer in answers_inverted)
    assert (augmentations.invert(np.zeros_like(answers))[0] == 255).all()


def test_augmentation_names() -> None:
    rng = np.random.default_rng(0)
    tokens = np.array([1, 2, 0, 0], np.uint8)
    assert custom.augmentations(meta_of(2, 2, "ab", []), tokens, rng, 1).names == ["identity"]
    names = custom.augmentations(meta_of(2, 2, "ab", ALL), tokens, rng, 30).names
    assert names[0] == "symmetry=0,symbols=a b,offset=0:0"
    assert any("symbols=b a" in name for name in names)
    assert len({name.split(",")[0] for name in names}) == 8
    with pytest.raises(UserError, match=r"^evaluate.num_votes must be 1 if data.symmetries is empty. Got 2$"):
        custom.augmentations(meta_of(2, 2, "ab", []), tokens, rng, 2)


def test_valid_is_none() -> None:
    grid = np.zeros((2, 2), np.uint8)
    assert custom.valid(meta_of(2, 2, "ab", []), [grid], [grid]) is None


def test_speed_of_augmentation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["/".join("".join(map(str, line)) for line in grid) for grid in rng.integers(0, 10, (1000, 9, 9))]
    path = tmp_path / "mine.csv"
    path.write_text("input,output\n" + "".join(f"{row},{row}\n" for row in rows))
    start = time.monotonic()
    data = settings_of(path, symmetries=ALL, height=10, width=10, test_groups=10)
    train = generate_dataset(data, tmp_path / "data", AugmentParams(num_aug=100, validation_groups=0, seed=0))["train"]
    assert len(train) == 990 * 101
    assert time.monotonic() - start < 30
