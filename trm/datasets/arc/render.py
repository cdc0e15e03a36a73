"""Compiled operations on ARC grids: fingerprints of augmentations, and drawing on canvases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.canvas import END_TOKEN, FIRST_CELL
from trm.data.numba_utils import njit
from trm.data.protocol import Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc.tasks import MAX_SIDE

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_WEIGHTS = np.random.default_rng(0).integers(2**64, size=MAX_SIDE * MAX_SIDE, dtype=np.uint64) | np.uint64(1)
"""Hash weight of each cell; odd, so that its product with a color is not 0."""


@dataclass(frozen=True)
class TransformedGrids:
    """The grids of a task in all eight symmetries."""

    cells: npt.NDArray[np.uint8]
    """The cells of all grids, concatenated in row-major order, uint8."""
    extents: npt.NDArray[np.int64]
    """Start in `cells`, height and width by symmetry, pair and side (input, output): int64 [8, pairs, 2, 3]. Unknown
    outputs are 0 x 0.
    """


def transform_grids(pairs: Sequence[tuple[Grid, Grid | None]]) -> TransformedGrids:
    """Apply the eight symmetries to each grid, uint8 [h, w]; None is an unknown output."""
    extents = np.zeros((8, len(pairs), 2, 3), dtype=np.int64)
    cells: list[npt.NDArray[np.uint8]] = []
    start = 0
    for symmetry in range(8):
        for number, pair in enumerate(pairs):
            for side, grid in enumerate(pair):
                if grid is not None:
                    transformed = apply_symmetry(grid, symmetry)
                    extents[symmetry, number, side] = start, *transformed.shape
                    cells.append(transformed.ravel())
                    start += transformed.size
    return TransformedGrids(np.concatenate(cells), extents)


@njit
def _mix(x):  # noqa: ANN001, ANN202  (numba infers the types)
    """Bijective hash of a uint64: the output function of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit
def _random_below(key, number, limit):  # noqa: ANN001, ANN202
    """Number `number` (0, 1, …) of the splitmix64 stream with the uint64 `key`, uniform in [0, limit)."""
    x = _mix(key + np.uint64(number + 1) * _GAMMA)
    return np.int64((x >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


@njit
def _color_sums(cells, extents, weights):  # noqa: ANN001, ANN202
    """Parts of the grid hashes, uint64 [8, pairs, 2, 11]: the summed weights of the cells of each color, and a hash of
    the shape.

    The hash of a recolored grid is a sum of ten products of them.
    """
    sums = np.zeros((8, extents.shape[1], 2, 11), np.uint64)
    for symmetry in range(8):
        for pair in range(extents.shape[1]):
            for side in range(2):
                position, height, width = extents[symmetry, pair, side]
                sums[symmetry, pair, side, 10] = np.uint64(height * 31 + width) * _GAMMA
                for i in range(height):
                    for j in range(width):
                        sums[symmetry, pair, side, cells[position]] += weights[i * MAX_SIDE + j]
                        position += 1
    return sums


@njit
def _fingerprints(sums, symmetries, permutations, result):  # noqa: ANN001, ANN202
    for index in range(len(symmetries)):
        total = np.uint64(0)
        for pair in range(sums.shape[1]):
            pair_hash = np.uint64(0)
            for side in range(2):  # hashed in between: input and output are not interchangeable
                part = sums[symmetries[index], pair, side]
                grid = part[10]
                for color in range(10):
                    grid += np.uint64(permutations[index, color]) * part[color]
                pair_hash = _mix((pair_hash + grid) ^ _GAMMA)
            total += pair_hash  # a sum: invariant under the order of the pairs
        result[index] = total


@njit
def _render(cells, extents, pairs, symmetries, permutations, first, key, shift, side, inputs, labels):  # noqa: ANN001, ANN202
    """Draw augmentations `first`, `first` + 1, … on zeroed canvases; without `shift` all start at (0, 0)."""
    colors = np.zeros(10, np.uint8)
    example = 0
    for index in range(len(symmetries)):
        for color in range(10):
            colors[color] = permutations[index, color] + FIRST_CELL
        # One random stream per augmentation: the result does not depend on the block boundaries.
        stream = _mix(key + np.uint64(first + index) * _GAMMA)
        unshifted = _random_below(stream, 0, len(pairs))
        for number in range(len(pairs)):
            extent = extents[symmetries[index], pairs[number]]
            row = column = 0
            if shift and number != unshifted:
                row = _random_below(stream, 2 * number + 1, side + 1 - max(extent[0, 1], extent[1, 1]))
                column = _random_below(stream, 2 * number + 2, side + 1 - max(extent[0, 2], extent[1, 2]))
            _draw_grid(cells, extent[0], colors, row, column, side, inputs[example])
            _draw_grid(cells, extent[1], colors, row, column, side, labels[example])
            example += 1


@njit
def _draw_grid(cells, extent, colors, row, column, side, canvas):  # noqa: ANN001, ANN202
    """Draw one grid and its end tokens on a canvas uint8 [side * side], with the upper left corner at (row, column)."""
    start, height, width = extent
    for i in range(height):
        position = (row + i) * side + column
        source = cells[start + i * width : start + (i + 1) * width]
        for j in range(width):
            canvas[position + j] = colors[source[j]]
        if column + width < side:
            canvas[position + width] = END_TOKEN
    if row + height < side:
        position = (row + height) * side + column
        for j in range(width):
            canvas[position + j] = END_TOKEN


def fingerprints(
    transformed: TransformedGrids, symmetries: npt.NDArray[np.uint8], permutations: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint64]:
    """One number per augmentation of a task, uint64 [n], equal for equal multisets of (input, output) pairs.

    Others collide with a probability of about 2^-60. symmetries: uint8 [n]. permutations: images of the colors, uint8
    [n, 10].
    """
    result = np.empty(len(symmetries), dtype=np.uint64)
    _fingerprints(_color_sums(transformed.cells, transformed.extents, _WEIGHTS), symmetries, permutations, result)
    return result


def render(
    transformed: TransformedGrids,
    pairs: npt.NDArray[np.int64],
    symmetries: npt.NDArray[np.uint8],
    permutations: npt.NDArray[np.uint8],
    first: int,
    key: np.uint64,
    shift: bool,
    inputs: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
) -> None:
    """Draw the pairs (int64 [p], indices into the pairs of the task) of n augmentations on `inputs` and `labels`.

    The canvases are uint8 [n * p, side * side], zeroed. The augmentations are numbers `first`, `first` + 1, … of their
    task. With `shift`, `key` and these numbers determine the offsets; one random pair of each augmentation keeps the
    offset (0, 0).
    """
    extents, side = transformed.extents, math.isqrt(inputs.shape[1])
    _render(transformed.cells, extents, pairs, symmetries, permutations, first, key, shift, side, inputs, labels)
