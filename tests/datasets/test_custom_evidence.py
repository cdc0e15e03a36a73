"""Symmetries that a file supports: of puzzles whose symmetries are known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.puzzle_generators import write_puzzles
from trm.datasets.custom.augmentation import AugmentationSpace
from trm.datasets.custom.evidence import Symmetries, contradictions, find_symmetries
from trm.datasets.custom.files import read_custom_file

Grids = np.ndarray


def symmetries_of(path: Path) -> Symmetries:
    return find_symmetries(read_custom_file(path, None, None, None))


@pytest.mark.parametrize(
    ("name", "names", "fixed"),
    [
        ("latin", ("dihedral", "permute_symbols"), "."),
        ("sudoku-letters", ("dihedral", "permute_symbols"), "."),
        ("mirror", ("permute_symbols",), "."),
        ("sorted-rows", ("permute_symbols",), "."),
        ("enclosed", ("dihedral",), ""),
        ("path", ("dihedral", "permute_symbols"), "*12"),  # start and goal may be exchanged
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_known_puzzles(tmp_path: Path, name: str, names: tuple[str, ...], fixed: str, seed: int) -> None:
    # The relation of single cells is weaker where rows move.
    write_puzzles(tmp_path / "mine.csv", name, 1500 if name == "sorted-rows" else 400, seed)
    found = symmetries_of(tmp_path / "mine.csv")
    assert (found.names, "".join(found.fixed)) == (names, fixed)


def write(path: Path, rule: Callable[[Grids], Grids], count: int, symbols: str = "ab", size: int = 5) -> None:
    """Random grids, and the answers that `rule` computes from the numbers of their symbols."""
    grids = np.unique(np.random.default_rng(0).integers(0, len(symbols), (count, size, size)), axis=0)
    texts = [["/".join("".join(symbols[c] for c in row) for row in g) for g in (grid, rule(grid))] for grid in grids]
    path.write_text("input,output\n" + "".join(f"{question},{answer}\n" for question, answer in texts))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (lambda grid: np.roll(grid, 1, axis=1), ("permute_symbols",)),
        (np.rot90, ("permute_symbols",)),
        (lambda grid: np.rot90(grid, 2), ("dihedral", "permute_symbols")),
        (lambda grid: 1 - grid, ("dihedral", "permute_symbols")),
        (lambda grid: np.minimum(grid, np.roll(grid, 1, axis=0)), ()),
        (lambda grid: np.sort(grid, axis=1), ()),
        (lambda grid: np.full_like(grid, grid.sum() % 2), ()),  # invisible in single cells: not tested
    ],
)
def test_rules(tmp_path: Path, rule: Callable[[Grids], Grids], names: tuple[str, ...]) -> None:
    write(tmp_path / "mine.csv", rule, 500)
    assert symmetries_of(tmp_path / "mine.csv").names == names


def test_few_puzzles_support_nothing(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", lambda grid: grid, 99)
    found = symmetries_of(tmp_path / "mine.csv")
    assert found.names == ()
    assert found.dihedral.reason == "only 99 puzzles have one shape; at least 100 are compared"


def test_contradiction_refutes_a_symmetry(tmp_path: Path) -> None:
    """One puzzle is another one, reflected, with an answer that is not reflected."""
    write(tmp_path / "mine.csv", lambda grid: grid, 500, "abc")
    assert symmetries_of(tmp_path / "mine.csv").names == ("dihedral", "permute_symbols")
    with (tmp_path / "mine.csv").open("a") as file:
        file.write("aabca/aaaaa/aaaaa/aaaaa/aaaaa,aabca/aaaaa/aaaaa/aaaaa/aaaaa\n")
        file.write("acbaa/aaaaa/aaaaa/aaaaa/aaaaa,aabca/aaaaa/aaaaa/aaaaa/aaaaa\n")
    found = symmetries_of(tmp_path / "mine.csv")
    assert found.dihedral.reason == "the puzzles on lines 502 and 503 contradict it"
    assert not found.dihedral.supported


def test_contradictions(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("input,output\nab,ab\nba,ba\nab,ab\nab,bb\naa,bb\nbb,aa\n")
    puzzles = read_custom_file(tmp_path / "mine.csv", None, None, None)

    def found(symmetries: tuple[int, ...], free: list[int]) -> tuple[int, list[tuple[int, int]]]:
        return contradictions(puzzles, AugmentationSpace(1, 2, symmetries, 3, np.array(free, np.uint8), False, False))

    assert found((0,), []) == (2, [(0, 3)])
    assert found((0, 4), []) == (3, [(0, 3)])
    assert found((0,), [1, 2]) == (4, [(0, 3)])
