"""Evidence for the symmetries of a file of custom puzzles.

A symmetry is supported if it maps the puzzles of the file to puzzles that could be among them:

- No augmentation of a puzzle has the input of another puzzle and a different output.
- The pairs of cells have the same distribution before and after: how often input cell p equals output cell q, how often
  two output cells are equal, and how often the output differs from the input at q while p has a symbol. A symmetry is
  rejected if one of these frequencies changes by more than chance, at the level `LEVEL` for all of them together.
- This test has power: without a visible relation between inputs and outputs, or with fewer than `MIN_ROWS` puzzles,
  nothing is supported.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from trm.datasets.custom.augmentation import AugmentationSpace, canonical_forms
from trm.datasets.custom.files import CustomPuzzles

LEVEL = 1e-3
"""Probability of rejecting a symmetry that holds."""
MIN_ROWS = 100
"""Puzzles of one shape from which the frequencies are compared."""
MAX_CELLS = 144
"""Cells of a grid that are compared; of larger grids the middle, which the symmetries map to itself."""
MAX_TESTED = 2000
"""Puzzles that are compared."""
MAX_PERMUTED = 40
"""Symbols up to which they are compared with each other."""

Floats = npt.NDArray[np.float64]
Planes = npt.NDArray[np.float32]
"""Indicators of the symbols, [S, N, h, w]."""


@dataclass(frozen=True)
class Evidence:
    """Whether the puzzles support a symmetry."""

    supported: bool
    reason: str
    """One line."""


@dataclass(frozen=True)
class Symmetries:
    """The symmetries of a file."""

    dihedral: Evidence
    permute_symbols: Evidence
    fixed: tuple[str, ...]
    """Symbols that permutations leave unchanged."""

    @property
    def names(self) -> tuple[str, ...]:
        """The supported ones, as in `data.symmetries`."""
        evidence = {"dihedral": self.dihedral, "permute_symbols": self.permute_symbols}
        return tuple(name for name, each in evidence.items() if each.supported)


def contradictions(puzzles: CustomPuzzles, space: AugmentationSpace) -> tuple[int, list[tuple[int, int]]]:
    """How many puzzles have the input of an earlier one, up to the symmetries of `space`; and those pairs of rows among
    them whose outputs contradict each other.
    """
    pairs = [puzzles.grids(row) for row in range(len(puzzles))]
    forms = canonical_forms(space, [question for question, _ in pairs])
    first: dict[bytes, int] = {}
    equal = [(first.setdefault(form, row), row) for row, form in enumerate(forms)]
    equal = [(one, other) for one, other in equal if one != other]
    rows = sorted({row for pair in equal for row in pair})
    joint = dict(
        zip(rows, canonical_forms(space, [pairs[r][0] for r in rows], [pairs[r][1] for r in rows]), strict=True)
    )
    return len(equal), [(one, other) for one, other in equal if joint[one] != joint[other]]


def find_symmetries(puzzles: CustomPuzzles) -> Symmetries:
    """The symmetries that the puzzles support."""
    height, width = puzzles.inputs.shape[1:]
    vocab_size = len(puzzles.alphabet) + puzzles.first_cell_token
    all_tokens = range(puzzles.first_cell_token, vocab_size)

    def space(dihedral: bool, free: Sequence[int]) -> AugmentationSpace:
        symmetries = tuple(range(8)) if height == width else (0, 2, 4, 5)
        chosen = symmetries if dihedral else (0,)
        has_ends = puzzles.first_cell_token > 1
        return AugmentationSpace(height, width, chosen, vocab_size, np.array(free, np.uint8), False, has_ends)

    sample = _sample(puzzles)
    if isinstance(sample, str):
        untested = Evidence(False, sample)
        return Symmetries(untested, untested, ())
    features, rows = _features(sample.inputs, sample.labels), sample.rows
    if not _has_power(sample, features):
        untested = Evidence(False, "no relation between single cells of input and output is visible, so none is tested")
        return Symmetries(untested, untested, ())
    dihedral = _dihedral(sample, features, height == width)
    if dihedral.supported:
        dihedral = _without_contradiction(puzzles, space(True, ()), dihedral)
    free = _free_tokens(sample)
    tokens = [all_tokens[index] for index in free]
    fixed = tuple(symbol for index, symbol in enumerate(puzzles.alphabet) if index not in free)
    if len(free) < 2:
        return Symmetries(dihedral, Evidence(False, "no two symbols occur in the same way"), ())
    names = " ".join(puzzles.alphabet[index] for index in free)
    permuted = Evidence(True, f"{names} occur in the same way in {rows} puzzles")
    permuted = _without_contradiction(puzzles, space(dihedral.supported, tokens), permuted)
    return Symmetries(dihedral, permuted, fixed if permuted.supported else ())


def _without_contradiction(puzzles: CustomPuzzles, space: AugmentationSpace, evidence: Evidence) -> Evidence:
    """`evidence`, or why it does not hold for puzzles that become equal."""
    count, pairs = contradictions(puzzles, space)
    if pairs:
        one, other = (int(puzzles.lines[row]) for row in pairs[0])
        return Evidence(False, f"the puzzles on lines {one} and {other} contradict it")
    return Evidence(True, f"{evidence.reason}; {count} of them equal another one under it, with the same answer")


@dataclass(frozen=True)
class _Sample:
    """Puzzles of one shape of inputs and outputs, as indicators of the symbols."""

    inputs: Planes
    labels: Planes
    rows: int


def _sample(puzzles: CustomPuzzles) -> _Sample | str:
    """The puzzles of the most frequent shape, or why there are none to compare."""
    shapes = [tuple(shape) for shape in puzzles.shapes.reshape(len(puzzles), 4).tolist()]
    shape, count = Counter(shapes).most_common(1)[0]
    if count < MIN_ROWS:
        return f"only {count} puzzles have one shape; at least {MIN_ROWS} are compared"
    rows = [row for row, each in enumerate(shapes) if each == shape][:MAX_TESTED]
    tokens = np.arange(len(puzzles.alphabet)) + puzzles.first_cell_token

    def planes(grids: Sequence[npt.NDArray[np.uint8]]) -> Planes:
        return (_middle(np.stack(grids)) == tokens[:, None, None, None]).astype(np.float32)

    pairs = [puzzles.grids(row) for row in rows]
    return _Sample(planes([pair[0] for pair in pairs]), planes([pair[1] for pair in pairs]), len(rows))


def _middle(grids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The middle of grids uint8 [N, h, w], at most `MAX_CELLS` cells."""
    while grids.shape[1] * grids.shape[2] > MAX_CELLS:
        rows, columns = (int(side == max(grids.shape[1:])) for side in grids.shape[1:])
        grids = grids[:, rows : grids.shape[1] - rows, columns : grids.shape[2] - columns]
    return grids


def _features(inputs: Planes, labels: Planes) -> list[Floats]:
    """Sums over the puzzles: [p, q] input cell p equals output cell q; [p, q] output cells are equal; and, if the
    shapes are equal, [s, p, q] input cell p has symbol s and the output differs from the input at q.
    """
    x, y = (planes.reshape(*planes.shape[:2], -1) for planes in (inputs, labels))
    sums = [np.einsum("snp,snq->pq", x, y, optimize=True), np.einsum("snp,snq->pq", y, y, optimize=True)]
    if x.shape == y.shape:
        changed = 1 - (x * y).sum(axis=0)
        sums.append(np.einsum("snp,nq->spq", x, changed, optimize=True))
    return [each.astype(np.float64) for each in sums]


def _has_power(sample: _Sample, features: Sequence[Floats]) -> bool:
    """Whether some input cell and some output cell are equal more or less often than if they were independent."""
    x, y = (planes.sum(axis=1).reshape(len(planes), -1).astype(np.float64) for planes in (sample.inputs, sample.labels))
    expected = x.T @ y / sample.rows
    return _differ(features[0], expected, features[0].size)


def _differ(one: Floats, other: Floats, count: int) -> bool:
    """Whether sums over the same puzzles differ by more than chance; count: number of comparisons.

    The variance of a difference of two sums of indicators is at most the sum of both sums.
    """
    limit = _limit(count)
    # Sums below the square of the limit are too small for the normal distribution.
    return bool((np.abs(one - other) > limit * np.sqrt(np.maximum(one + other, limit**2))).any())


def _dihedral(sample: _Sample, features: Sequence[Floats], is_square: bool) -> Evidence:
    """Compare the puzzles with their images under generators of the group."""
    axes = {"left-right reflection": lambda a: a[..., ::-1], "up-down reflection": lambda a: a[..., ::-1, :]}
    if is_square:
        if sample.inputs.shape[2] != sample.inputs.shape[3] or sample.labels.shape[2] != sample.labels.shape[3]:
            return Evidence(False, "most grids are not square")
        axes["transposition"] = lambda a: np.swapaxes(a, -2, -1)
    count = len(axes) * sum(feature.size for feature in features)
    failed, held = [], []
    for name, transform in axes.items():
        images = _features(
            np.ascontiguousarray(transform(sample.inputs)), np.ascontiguousarray(transform(sample.labels))
        )
        changed = any(_differ(one, other, count) for one, other in zip(features, images, strict=True))
        (failed if changed else held).append(name)
    if not failed:
        return Evidence(True, f"{sample.rows} puzzles look the same after {', '.join(held)}")
    return Evidence(False, f"the puzzles do not look the same after {', '.join(failed)}")


def _free_tokens(sample: _Sample) -> list[int]:
    """The largest set of symbols that occur in the same way: indices into the alphabet."""
    x, y = (planes.reshape(*planes.shape[:2], -1) for planes in (sample.inputs, sample.labels))
    used = np.flatnonzero(x.any(axis=(1, 2)) | y.any(axis=(1, 2))).tolist()
    if len(used) > MAX_PERMUTED:
        return []
    cells = [planes.sum(axis=1, dtype=np.float64) for planes in (x, y)]
    # Per puzzle, how often symbol s is next to symbol t, and becomes symbol t: [N, S, S].
    counts = [
        np.einsum("snij,tnij->nst", one, other, optimize=True)
        for planes in (sample.inputs, sample.labels)
        for one, other in ((planes[..., :-1], planes[..., 1:]), (planes[..., :-1, :], planes[..., 1:, :]))
    ]
    if x.shape == y.shape:
        counts.append(np.einsum("snp,tnp->nst", x, y, optimize=True))
    pairs = len(used) * (len(used) - 1) // 2
    comparisons = max(pairs * (sum(each.shape[1] for each in cells) + 2 * len(x) * len(counts)), 1)

    def alike(s: int, t: int) -> bool:
        order = np.arange(len(x))
        order[[s, t]] = order[[t, s]]
        if any(_differ(each[s], each[t], comparisons) for each in cells):
            return False
        rows = [each[:, s] - each[:, t][:, order] for each in counts]
        columns = [each[:, :, s] - each[:, :, t][:, order] for each in counts]
        return not any(_has_mean(each, comparisons) for each in (*rows, *columns))

    groups: list[list[int]] = []
    for symbol in used:
        group = next((group for group in groups if all(alike(symbol, each) for each in group)), None)
        if group is None:
            groups.append([symbol])
        else:
            group.append(symbol)
    return max(groups, key=len, default=[])


def _has_mean(differences: Planes, count: int) -> bool:
    """Whether the mean of some column, [N, columns], is not 0 by more than chance; count: number of comparisons."""
    limit = _limit(count)
    total, squares = differences.sum(axis=0), np.square(differences).sum(axis=0)
    return bool((np.abs(total) > limit * np.sqrt(np.maximum(squares, limit**2))).any())


def _limit(count: int) -> float:
    """The number of standard deviations that one of `count` normal variables exceeds with probability `LEVEL`."""
    return NormalDist().inv_cdf(1 - LEVEL / (2 * count))
